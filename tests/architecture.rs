//! Checks the promises of `ARCHITECTURE.md`: layers of modules, sizes of files, and documents that
//! agree with the code.
//!
//! The checks read text, not types, so they require one spelling of imports: `crate::module::Item`,
//! without `crate::{..}` groups and without `super::super`. Every failure message states the
//! remedy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its unit tests: as much as a newcomer reads in one sitting.
const LONGEST_FILE: usize = 500;

// --- Layers -----------------------------------------------------------------------------------

/// One block of `lib.rs`: the modules declared in it and the comment above them.
struct Layer {
    about: String,
    modules: Vec<String>,
}

/// The blocks of `src/lib.rs` in their order. A block ends at an empty line; attributes may be between its modules.
fn layers() -> Vec<Layer> {
    let lib = read("src/lib.rs");
    let mut layers = Vec::new();
    for block in lib.split("\n\n") {
        let mut layer = Layer { about: String::new(), modules: Vec::new() };
        for line in block.lines().map(str::trim).filter(|line| !line.starts_with("//!")) {
            if let Some(comment) = line.strip_prefix("//") {
                comment.trim().trim_end_matches('.').clone_into(&mut layer.about);
            } else if let Some(module) = declared(line) {
                layer.modules.push(module.to_owned());
            }
        }
        if !layer.modules.is_empty() {
            layers.push(layer);
        }
    }
    layers
}

/// The module a line declares: `pub mod a;`, `mod a;`, `pub(crate) mod a;`.
fn declared(line: &str) -> Option<&str> {
    let (visibility, rest) = line.split_once("mod ").unwrap_or(("-", ""));
    let plain = visibility.trim().is_empty() || visibility.trim().starts_with("pub");
    rest.split_once(';').map(|(name, _)| name.trim()).filter(|_| plain)
}

#[test]
fn modules_name_only_lower_layers() {
    let layers = layers();
    let layer_of = |module: &str| {
        layers.iter().position(|layer| layer.modules.iter().any(|name| name == module))
    };
    let mut broken = Vec::new();
    for path in sources(Path::new("src")) {
        let Some(owner) = owner(&path) else { continue };
        let layer = layer_of(&owner)
            .unwrap_or_else(|| panic!("{} belongs to no module of src/lib.rs", path.display()));
        // In files of `src` itself, `super` is the crate root, so only there does it leave the
        // module.
        let top = path.parent() == Some(Path::new("src"))
            || path == Path::new("src").join(&owner).join("mod.rs");
        let text = read(&path);
        let children: BTreeSet<&str> =
            text.lines().filter_map(|line| declared(line.trim())).collect();
        for (number, line) in code(&text).lines().enumerate() {
            let mut say =
                |what: String| broken.push(format!("{}:{}: {what}", path.display(), number + 1));
            if line.contains("crate::{") || line.contains("crate::*") {
                say("groups of modules cannot be checked: one `use crate::module::..` per module"
                    .to_owned());
            }
            if line.contains("super::super") {
                say(format!("`super::super` is hard to follow: write `crate::{owner}::..`"));
            }
            let named = names_after(line, "crate::").chain(
                names_after(line, "super::")
                    .filter(|name| top && !children.contains(name.as_str())),
            );
            for name in named.filter(|name| *name != owner) {
                match layer_of(&name) {
                    Some(other) if other == layer => say(format!(
                        "`{owner}` and `{name}` are of one layer (\"{}\") and must not know each other: what both need goes below",
                        layers[layer].about
                    )),
                    Some(other) if other > layer => say(format!(
                        "`{owner}` (\"{}\") must not know `{name}` (\"{}\"), which is above it: hand in what it needs, or move it up",
                        layers[layer].about, layers[other].about
                    )),
                    _ => {}
                }
            }
        }
    }
    assert!(broken.is_empty(), "the layer law is broken:\n{}", broken.join("\n"));
}

#[test]
fn every_layer_says_what_it_is_and_every_module_exists() {
    let layers = layers();
    assert!(
        layers.len() >= 6,
        "src/lib.rs should have a block of modules per layer, separated by empty lines"
    );
    let mut wrong = Vec::new();
    for layer in &layers {
        if layer.about.is_empty() {
            wrong.push(format!(
                "the block of {:?} has no comment that says what the layer is",
                layer.modules
            ));
        }
        for module in &layer.modules {
            let (file, directory) = (format!("src/{module}.rs"), format!("src/{module}/mod.rs"));
            if Path::new(&file).exists() == Path::new(&directory).exists() {
                wrong.push(format!("module `{module}` should be either {file} or {directory}"));
            }
        }
    }
    let declared: BTreeSet<&String> = layers.iter().flat_map(|layer| &layer.modules).collect();
    for path in sources(Path::new("src")) {
        if let Some(owner) = owner(&path).filter(|owner| !declared.contains(owner)) {
            wrong.push(format!(
                "{} belongs to `{owner}`, which src/lib.rs does not declare",
                path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_architecture_shows_every_module() {
    let text = read("ARCHITECTURE.md");
    let missing: Vec<_> = layers()
        .into_iter()
        .flat_map(|layer| layer.modules)
        .filter(|module| !text.contains(&format!("`{module}`")))
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not mention the modules {missing:?}");
}

// --- Files ------------------------------------------------------------------------------------

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for path in sources(Path::new("src")) {
        let text = read(&path);
        if !text.starts_with("//!") && !is_test(&path) {
            wrong.push(format!(
                "{}: no module doc; the first lines say why the file exists",
                path.display()
            ));
        }
        let lines = without_tests(&text).lines().count();
        if lines > LONGEST_FILE && !is_test(&path) {
            wrong.push(format!("{}: {lines} lines without its tests, {LONGEST_FILE} at most: split it where its parts meet", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a file holds only tests: `tests.rs`, or a file below a directory `tests`.
fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests")
}

/// The text of a file up to its unit tests, which are at its end.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at])
}

// --- Documents --------------------------------------------------------------------------------

#[test]
fn files_that_may_hold_secrets_are_read_in_one_way() {
    const OTHER_WAYS: [&str; 6] =
        ["fs::read", "read_to_string", "File::open", "pem_file", "pem_reader", "from_pem_slice"];
    // This module hashes the files; no parser sees their contents.
    let hashed = Path::new("src/generation/config_version.rs");
    for layer in ["src/tls", "src/egress", "src/generation", "src/forward"] {
        for path in sources(Path::new(layer)) {
            if is_test(&path) || path == hashed {
                continue;
            }
            let text = code(without_tests(&read(&path)));
            for way in OTHER_WAYS {
                assert!(
                    !text.contains(way),
                    "{}: `{way}` gives text that can be printed: read it with `config::SecretFile`",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn the_image_exposes_the_forward_proxy_and_lets_it_be_reached() {
    let (image, config) = (read("Dockerfile"), read("config/forward.toml"));
    let port = config
        .lines()
        .find_map(|line| line.strip_prefix("listen = \"${FORWARD_ADDR:-127.0.0.1}:"))
        .and_then(|rest| rest.strip_suffix('"'))
        .expect("config/forward.toml listens on ${FORWARD_ADDR} and a port");
    let exposed = image.lines().find_map(|line| line.strip_prefix("EXPOSE ")).unwrap_or_default();
    assert!(exposed.split(' ').any(|one| one == port), "EXPOSE lacks {port}: {exposed}");
    assert!(image.contains("FORWARD_ADDR=0.0.0.0"), "loopback cannot be reached from outside");
}

#[test]
fn the_guide_shows_every_port_and_every_open_path() {
    let page = read("docs/guide/hybrid-chat-ports.md");
    let quoted = |line: &str| line.split('"').nth(1).map(str::to_owned);
    let mut missing = Vec::new();
    let mut upstream = String::new();
    for line in read("config/upstreams.toml").lines() {
        if let Some(rest) = line.strip_prefix("[upstream.") {
            upstream = rest.split(']').next().unwrap().to_owned();
        } else if line.starts_with("endpoints") {
            let endpoint = quoted(line).unwrap();
            let port = endpoint.rsplit(':').next().unwrap();
            let row = format!("| {port} | `{upstream}` |");
            if !page.contains(&row) {
                missing.push(format!("{row} (config/upstreams.toml)"));
            }
        }
    }
    for file in ["config/internet.toml", "config/lan.toml"] {
        for route in read(file).split("[[profile.").filter(|table| table.contains("\nupstream = "))
        {
            let path =
                route.lines().find(|line| line.starts_with("path = ")).and_then(quoted).unwrap();
            let named = [path.as_str(), path.trim_end_matches('/')]
                .iter()
                .any(|path| page.contains(&format!("`{path}`")));
            if !named {
                missing.push(format!("`{path}` ({file})"));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "the port tables of docs/guide/hybrid-chat-ports.md lack:\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_decision_is_listed() {
    let architecture = read("ARCHITECTURE.md");
    let decisions: Vec<String> = files(Path::new("docs/decisions"), "md")
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    assert!(!decisions.is_empty(), "docs/decisions is empty");
    let missing: Vec<_> =
        decisions.iter().filter(|path| !architecture.contains(path.as_str())).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not list {missing:?}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents(Path::new(".")) {
        let text = read(&document);
        for link in
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link)
        {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let target = if path.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(path)
            };
            if !target.exists() {
                broken.push(format!("{}: {link}", document.display()));
            } else if !anchor.is_empty() && !anchors(&read(&target)).contains(anchor) {
                broken.push(format!("{}: {link} (no such heading)", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// The link targets of the headings of a document.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| {
        line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
    });
    headings
        .map(|heading| {
            let kept =
                heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        })
        .collect()
}

// --- Reading ----------------------------------------------------------------------------------

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The module of `lib.rs` that a file belongs to; `None` for `lib.rs` and `main.rs`.
fn owner(path: &Path) -> Option<String> {
    let first = Path::new(path.strip_prefix("src").ok()?.components().next()?.as_os_str());
    let name = first.with_extension("").to_str()?.to_owned();
    (name != "lib" && name != "main").then_some(name)
}

/// All Rust files below a directory, sorted.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = files(dir, "rs");
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        }
    }
    found.sort();
    found
}

/// The files in `dir` whose names end with `.ending`, sorted.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| {
        path.is_file() && path.extension().is_some_and(|extension| extension == ending)
    });
    found.sort();
    found
}

/// All Markdown files below a directory, sorted. Build output and hidden directories are skipped.
fn documents(dir: &Path) -> Vec<PathBuf> {
    const SKIPPED: [&str; 2] = ["target", "node_modules"];
    let mut found = files(dir, "md");
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let skipped = name.starts_with('.') || SKIPPED.contains(&name.as_str());
        if path.is_dir() && !path.is_symlink() && !skipped {
            found.extend(documents(&path));
        }
    }
    found.sort();
    found
}

/// The identifiers that follow `prefix` in a line, where `prefix` is not the end of a longer name.
fn names_after(line: &str, prefix: &str) -> impl Iterator<Item = String> {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(prefix)
        .filter(move |(at, _)| !line[..*at].ends_with(part_of_name))
        .map(move |(at, _)| {
            line[at + prefix.len()..]
                .split(|c| !part_of_name(c))
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .filter(|name| !name.is_empty())
        .collect::<Vec<_>>()
        .into_iter()
}

/// `text` without comments and the contents of strings; lines keep their numbers.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if rest.starts_with("r\"") || rest.starts_with("r#") && raw_string(rest).is_some() {
            raw_string(rest).unwrap_or(rest.len())
        } else if first == '"' {
            string(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(rest.len(), |at| at + 2)
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    out
}

/// The length of the string literal at the front of `text`.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the raw string literal at the front of `text`; `None` for other text, such as
/// `r#type`.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    body.find(&end).map(|at| 1 + hashes + 1 + at + end.len())
}

#[test]
fn code_is_told_from_comments_and_strings() {
    let text = "use crate::a; // crate::b\nlet s = \"crate::c \\\" // x\"; f('\"'); g(r#\"crate::d\"\n\"#); crate::e::f(); /* crate::g */\nr#type";
    let seen: Vec<String> = code(text)
        .lines()
        .flat_map(|line| names_after(line, "crate::").collect::<Vec<_>>())
        .collect();
    assert_eq!(seen, ["a", "e"]);
    assert_eq!(code(text).lines().count(), text.lines().count());
    assert_eq!(declared("pub(crate) mod a;"), Some("a"));
    assert_eq!(declared("pub mod b; // why"), Some("b"));
    assert_eq!(declared("let model = 1;"), None);
    assert_eq!(declared("mod tests {"), None);
}
