mod serving;
#[test]
#[ignore]
fn hold() {
    let s = serving::Serving::start();
    std::fs::write("/tmp/wire/kubeconfig", std::fs::read(s.kubeconfig()).unwrap()).unwrap();
    println!("{}", s.address);
    std::fs::write("/tmp/wire/held", s.address.to_string()).unwrap();
    while !std::path::Path::new("/tmp/wire/stop").exists() {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}
