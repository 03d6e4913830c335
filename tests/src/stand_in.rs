//! Stand-ins: small busybox images under the names that the example manifests use, so that the examples run unchanged and without a
//! download. They are not the real programs, and say so in their first line of output.

use std::io;
use std::path::Path;

use crate::image::{self, Image, Tarball};

/// Stands in for the Java program of the example: takes the class name, a file and a count, and writes that many numbers.
const JAVA: &str = r#"#!/bin/sh
# A stand-in for a Java runtime that knows one class: RandomRunner FILE COUNT.
[ "$1" = RandomRunner ] || { echo "stand-in java: unknown class $1" >&2; exit 1; }
echo "stand-in RandomRunner: writing $3 random numbers to $2"
dd if=/dev/urandom of="$2" bs=4 count="$3" 2>/dev/null
"#;

/// Stands in for a log collector: says what it is, then lives until it is told to stop.
const FLUENTD: &str = r#"#!/bin/sh
# A stand-in for fluentd: prints a line a minute and obeys SIGTERM at once.
trap 'echo "stand-in fluentd: stopping"; exit 0' TERM INT
echo "stand-in fluentd: running on $(hostname)"
while :; do
    sleep 60 &
    wait $!
    echo "stand-in fluentd: nothing to collect"
done
"#;

pub const RANDOM_GENERATOR: &str = "docker.io/k8spatterns/random-generator:1.0";
pub const FLUENTD_ELASTICSEARCH: &str = "docker.io/fluent/fluentd-kubernetes-daemonset:elasticsearch";
pub const BUSYBOX: &str = "docker.io/library/busybox:1.36";

pub fn random_generator() -> io::Result<Image> {
    Ok(Image::busybox(RANDOM_GENERATOR)?.layer(Tarball::new().file("usr/bin/java", 0o755, JAVA.as_bytes()).bytes()))
}

pub fn fluentd_elasticsearch() -> io::Result<Image> {
    let program = Tarball::new().file("usr/bin/fluentd", 0o755, FLUENTD.as_bytes()).bytes();
    Ok(Image::busybox(FLUENTD_ELASTICSEARCH)?
        .layer(program)
        .entrypoint(&["/usr/bin/fluentd"])
        .config("Cmd", serde_json::Value::Null))
}

pub fn busybox() -> io::Result<Image> {
    Image::busybox(BUSYBOX)
}

/// Writes all stand-ins into an image directory. A file that is already there with the same content is left alone.
pub fn write_all(dir: &Path) -> io::Result<Vec<String>> {
    let mut written = Vec::new();
    for (file, made) in [
        ("random-generator.tar", random_generator()?),
        ("fluentd-elasticsearch.tar", fluentd_elasticsearch()?),
        ("busybox.tar", busybox()?),
    ] {
        let content = image::oci_archive(std::slice::from_ref(&made));
        if std::fs::read(dir.join(file)).ok().as_deref() != Some(&content) {
            image::place(dir, file, &content)?;
        }
        written.extend(made.names.iter().map(|name| format!("{file}: {name}")));
    }
    Ok(written)
}
