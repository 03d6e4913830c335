//! `pages DIR`: writes manual pages, completions and default configurations beneath DIR. Run by scripts/deb.sh.

use anyhow::Context as _;
use packaging::Program;

fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).context("usage: pages DIR")?;
    for program in Program::ALL {
        for path in program.write(dir.as_ref())? {
            println!("{}", path.display());
        }
    }
    Ok(())
}
