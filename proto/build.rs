//! The code of the protocol, from its definition.

fn main() -> Result<(), std::io::Error> {
    println!("cargo::rerun-if-changed=daemonlet/v1/fleet.proto");
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::Codec")
        .compile_protos(&["daemonlet/v1/fleet.proto"], &["."])
}
