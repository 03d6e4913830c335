//! `stand-in-image DIR`: writes the stand-in image archives into an image directory. Used by `make run` and the booted machine.

use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(dir), None) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: stand-in-image DIR");
    };
    for line in tests::stand_in::write_all(&PathBuf::from(dir))? {
        println!("stand-in {line}");
    }
    Ok(())
}
