//! Checks that the generated parts of `docs/reference` are those of the code.

// The pages have the command `demo`.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../examples/reference/pages/mod.rs"]
mod pages;

use std::path::Path;

#[test]
fn the_reference_is_in_step_with_the_code() {
    let pages = pages::regenerated(Path::new(".")).unwrap();
    let mut outdated = Vec::new();
    for page in pages.iter().filter(|page| page.is_outdated()) {
        let differs = page.old.lines().zip(page.new.lines()).position(|(old, new)| old != new);
        let line = differs.unwrap_or_else(|| page.old.lines().count());
        let shown = |text: &str| text.lines().nth(line).unwrap_or_default().to_owned();
        outdated.push(format!(
            "{}:{}\n  in the page: {}\n  in the code: {}",
            page.path.display(),
            line + 1,
            shown(&page.old),
            shown(&page.new)
        ));
    }
    assert!(
        outdated.is_empty(),
        "docs/reference is out of step with the code: `cargo run --example reference` mends it\n{}",
        outdated.join("\n")
    );
}
