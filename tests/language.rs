//! The language of the project: limits on two patterns that make text hard to read, and unique names
//! of types.
//!
//! The rules with examples are in `docs/internals/style.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]
#![allow(clippy::cast_precision_loss, reason = "counts of words are far below 2^52")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

// --- Prose ------------------------------------------------------------------------------------

/// Limits of one tree, per 1,000 words of its prose.
struct ProseLimits {
    /// Directory; `.` for the documents of the whole repository.
    tree: &'static str,
    ending: &'static str,
    /// Clauses that begin with a question word and have no noun before it.
    headless: f64,
    /// The pronouns of [`VAGUE_PRONOUNS`].
    vague: f64,
}

/// The target of every tree is 1.0 and 0.2; ripgrep has 0.3 and 0.01. A limit above the target is the
/// state of a tree that has not been rewritten yet. It may only be lowered.
const LIMITS: [ProseLimits; 5] = [
    ProseLimits { tree: "src", ending: "rs", headless: 7.0, vague: 1.0 },
    ProseLimits { tree: "tests", ending: "rs", headless: 1.0, vague: 0.2 },
    ProseLimits { tree: "bench", ending: "rs", headless: 1.0, vague: 0.2 },
    ProseLimits { tree: ".", ending: "md", headless: 1.0, vague: 0.2 },
    ProseLimits { tree: "config", ending: "toml", headless: 1.0, vague: 0.2 },
];

const QUESTION_WORDS: [&str; 5] = ["what", "who", "whoever", "whose", "whom"];

/// Words that show, after a question word, that the clause stands for a noun.
const CLAUSE_WORDS: &str = "\
    is was are were has have had come comes came cannot can could does did goes went stand \
    stands wait waits ask asks asked say says said serve serves served become becomes became \
    need needs a an the it they there this nobody one other others operator operators client \
    clients";

const VAGUE_PRONOUNS: [&str; 3] = ["nobody", "somebody", "whoever"];

/// Counts of one text.
#[derive(Default)]
struct ProseCounts {
    words: usize,
    headless: Vec<String>,
    vague: Vec<String>,
}

#[test]
fn prose_names_its_subjects() {
    let mut wrong = Vec::new();
    for limits in LIMITS {
        let (mut words, mut headless, mut vague) = (0, Vec::new(), Vec::new());
        for path in files(Path::new(limits.tree), limits.ending) {
            let text = fs::read_to_string(&path).unwrap();
            let blocks = match limits.ending {
                "md" => paragraphs(&text),
                "toml" => comments(&text, "#"),
                _ => comments(&text, "//"),
            };
            for block in blocks {
                let counts = count(&block);
                let place = |found: String| format!("  {}: {found}", path.display());
                words += counts.words;
                headless.extend(counts.headless.into_iter().map(place));
                vague.extend(counts.vague.into_iter().map(place));
            }
        }
        for (kind, found, limit) in [
            ("clauses without a noun", headless, limits.headless),
            ("vague pronouns", vague, limits.vague),
        ] {
            let rate = 1000.0 * found.len() as f64 / words.max(1) as f64;
            if rate > limit {
                wrong.push(format!(
                    "{} (.{}): {rate:.2} {kind} per 1,000 words, at most {limit} allowed; say the \
                     noun (docs/internals/style.md, rule 8):\n{}",
                    limits.tree,
                    limits.ending,
                    found.join("\n")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn count(text: &str) -> ProseCounts {
    let mut counts = ProseCounts { words: text.split_whitespace().count(), ..Default::default() };
    let mut before: Option<(&str, usize)> = None;
    for (start, word) in words(text) {
        let lower = uncapitalised(word);
        if let Some((question, end)) = before
            && text.get(end..start) == Some(" ")
            && CLAUSE_WORDS.split_whitespace().any(|known| known == word)
        {
            counts.headless.push(format!("{question} {word}"));
        }
        if VAGUE_PRONOUNS.contains(&lower.as_str()) {
            counts.vague.push(word.to_owned());
        }
        let is_question = QUESTION_WORDS.contains(&lower.as_str());
        before = is_question.then_some((word, start + word.len()));
    }
    counts
}

/// Runs of word characters, each with its offset.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

/// The word with its first letter in lower case.
fn uncapitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}

/// Blocks of adjacent comment lines, each as one line of text. A comment after a value is left out.
fn comments(text: &str, marker: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim).chain([""]) {
        if let Some(comment) = line.strip_prefix(marker) {
            block.push(comment.trim_start_matches(['/', '!']).trim_start());
        } else if !block.is_empty() {
            blocks.push(block.join(" "));
            block.clear();
        }
    }
    blocks
}

/// Paragraphs of a Markdown document, without code blocks.
fn paragraphs(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut kept = Vec::new();
    for paragraph in text.split("\n\n") {
        in_code ^= paragraph.matches("```").count() % 2 == 1;
        if !in_code && !paragraph.starts_with("    ") {
            kept.push(paragraph.to_owned());
        }
    }
    kept
}

#[test]
fn clauses_without_a_noun_are_counted() {
    let text =
        "/// What is told, and who  is not.\n// Somebody's hat; what\n//! clients see: whoever\n";
    let block = comments(text, "//").join(" ");
    let counts = count(&block);
    assert_eq!(counts.headless, ["What is", "what clients"], "in {block:?}");
    assert_eq!(counts.vague, ["Somebody", "whoever"], "in {block:?}");
    let settings = "# Who is\n# told.\nkey = 1  # what is\n\n# Nobody\n";
    assert_eq!(comments(settings, "#"), ["Who is told.", "Nobody"]);
    let document =
        "Who is it?\n\n    what is code\n\n```\nwhat is code\n\nwhat is code\n```\n\nEnd.";
    assert_eq!(paragraphs(document).len(), 3, "indented and fenced code is left out");
}

// --- Names ------------------------------------------------------------------------------------

/// Names that several types may have.
const SHARED_NAMES: [(&str, &str); 8] = [
    ("AdminState", "the configured state, and the present one in `upstream`"),
    ("CheckKind", "the configuration, and its compiled form in `upstream`"),
    ("Either", "serde visitors, each local to one function"),
    ("Endpoint", "the configuration, and its runtime state in `upstream`"),
    ("Flag", "response flags; also a test waker, local to one test"),
    ("HealthCheck", "the configuration, and its compiled form in `upstream`"),
    ("Upstream", "the configuration, and its runtime state in `upstream`"),
    ("World", "the environment of the tests of one module"),
];

#[test]
fn a_type_name_means_one_type() {
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in files(Path::new("src"), "rs") {
        for line in fs::read_to_string(&path).unwrap().lines() {
            if let Some(name) = declared_type(line) {
                let places = types.entry(name.to_owned()).or_default();
                places.insert(path.display().to_string());
            }
        }
    }
    let is_allowed = |name: &str| SHARED_NAMES.iter().any(|(shared, _)| *shared == name);
    let wrong: Vec<_> = types
        .iter()
        .filter(|(name, places)| places.len() > 1 && !is_allowed(name))
        .map(|(name, places)| format!("{name}: {}", Vec::from_iter(places.clone()).join(", ")))
        .collect();
    assert!(
        wrong.is_empty(),
        "one name for several types; rename one, or add the name with the reason to \
         `SHARED_NAMES`:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn constants_name_the_quantity_they_bound() {
    let mut wrong = Vec::new();
    for tree in ["src", "tests", "bench"] {
        for path in files(Path::new(tree), "rs") {
            for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let name = declared(line, &["const", "static"]);
                if matches!(name, Some("MOST" | "PATIENCE")) {
                    wrong.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "name the quantity, such as `MAX_HEADER_FIELDS` or `CONNECT_TIMEOUT`:\n{}",
        wrong.join("\n")
    );
}

fn declared_type(line: &str) -> Option<&str> {
    declared(line, &["struct", "enum", "trait", "union"])
}

/// The name that a line declares after one of these keywords.
fn declared<'a>(line: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let mut rest = line.trim_start();
    if let Some(after) = rest.strip_prefix("pub") {
        rest =
            after.strip_prefix('(').and_then(|after| after.split_once(')')).map_or(after, |p| p.1);
        rest = rest.trim_start();
    }
    rest = rest.strip_prefix("unsafe ").unwrap_or(rest);
    let (keyword, rest) = rest.split_once(' ')?;
    let name = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next()?;
    (keywords.contains(&keyword) && !name.is_empty()).then_some(name)
}

// --- Files ------------------------------------------------------------------------------------

/// Files below a directory whose names end so, without build products and dependencies.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules", "book"].contains(&name) {
                found.extend(files(&path, ending));
            }
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}
