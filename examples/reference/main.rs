//! Writes the generated parts of `docs/reference` anew, from the code: `cargo run --example
//! reference`. `tests/reference.rs` fails while a page is out of step.

mod pages;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match pages::regenerated(Path::new(".")) {
        Ok(pages) => {
            for page in pages.iter().filter(|page| page.is_outdated()) {
                if let Err(error) = std::fs::write(&page.path, &page.new) {
                    eprintln!("{}: {error}", page.path.display());
                    return ExitCode::FAILURE;
                }
                eprintln!("{} is up to date now", page.path.display());
            }
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
