//! Differences between two generations, in the terms of the configuration files.

use std::collections::{BTreeMap, BTreeSet};

use crate::admin::report::{ApplyMode, DiffKind, ItemDiff, KeyDiff, OpenCounts};
use crate::config::outline::{ItemName, OutlineItem, OutlineValue};
use crate::config::problem::LineIndex;
use crate::config::{AdminSocket, Config, RootPolicy};
use crate::generation::Generation;
use crate::units::{display_hex, display_timestamp};

/// Maximum number of keys that one log line shows of a change.
const MAX_KEYS_PER_LINE: usize = 3;

/// Maximum number of log lines per reload.
const MAX_LINES: usize = 100;

/// Settings that only a start can change, with the values of this start: item, key, value.
#[derive(Clone)]
pub(super) struct StartupOnly(Vec<(&'static str, &'static str, String)>);

impl StartupOnly {
    pub(super) fn new(config: &Config) -> Self {
        let socket = match &config.socket {
            AdminSocket::Usual => "the usual place".to_owned(),
            AdminSocket::Off => "off".to_owned(),
            AdminSocket::At { path, .. } => path.display().to_string(),
        };
        let listen =
            config.admin.as_ref().map_or("none".to_owned(), |admin| admin.listen.to_string());
        let user = match &config.gateway.root {
            RootPolicy::RunAs(user) => user.clone(),
            RootPolicy::Refuse | RootPolicy::Allow => "none".to_owned(),
        };
        Self(vec![
            ("gateway", "workers", config.gateway.workers.to_string()),
            ("gateway", "recent-requests", config.gateway.recent_requests.to_string()),
            ("gateway", "user", user),
            ("admin", "listen", listen),
            ("admin", "socket", socket),
        ])
    }

    /// Names of the settings that need a restart, such as `gateway.workers`.
    pub(super) fn outdated(&self, config: &Config) -> Vec<String> {
        let now = Self::new(config);
        let pairs = self.0.iter().zip(&now.0).filter(|(old, new)| old != new);
        pairs.map(|((item, key, _), _)| format!("{item}.{key}")).collect()
    }

    fn holds(&self, name: &ItemName, key: &str) -> bool {
        self.0.iter().any(|(item, fixed, _)| *item == &*name.kind && *fixed == key)
    }

    fn changes(&self, old: &Config, new: &Config) -> Vec<ItemDiff> {
        let now = Self::new(new);
        let pairs = self.0.iter().zip(&now.0).filter(|(started, now)| started != now);
        let place = |config: &Config, item: &str, key: &str| {
            let item = config.outline.items().find(|(name, _)| &*name.kind == item);
            let value = item.and_then(|(_, item)| item.key(key));
            value.map_or(String::new(), |value| config.sources.locate(value.place))
        };
        let one = |((item, key, started), (.., now)): (&(&str, &str, String), &(_, _, String))| {
            let (old_place, new_place) = (place(old, item, key), place(new, item, key));
            let keys = vec![KeyDiff {
                key: (*key).to_owned(),
                old: Some(started.clone()),
                new: Some(now.clone()),
                old_place: old_place.clone(),
                new_place: new_place.clone(),
            }];
            ItemDiff {
                means: ApplyMode::NeedsRestart,
                how: DiffKind::Changed,
                what: format!("{item}.{key}"),
                old_place,
                new_place,
                keys,
                open: OpenCounts::default(),
            }
        };
        pairs.map(one).collect()
    }
}

/// An item of the old generation, the new one, or both.
struct ItemPair<'a> {
    old: Option<(&'a ItemName, &'a OutlineItem)>,
    new: Option<(&'a ItemName, &'a OutlineItem)>,
}

/// A difference, with its item in the old generation.
pub(super) struct ConfigDifference<'a> {
    pub(super) change: ItemDiff,
    pub(super) old: Option<(&'a ItemName, &'a OutlineItem)>,
}

/// Compares two generations.
///
/// Differences are ordered by the way in which they are applied, then by name. The second result is
/// the number of unchanged items of each kind.
pub(super) fn between<'a>(
    started: &StartupOnly,
    old: &'a Generation,
    new: &'a Generation,
) -> (Vec<ConfigDifference<'a>>, BTreeMap<String, usize>) {
    let (mut found, mut kept) = (Vec::new(), BTreeMap::new());
    let lines = (old.config.sources.lines(), new.config.sources.lines());
    for pair in pairs(old, new) {
        let keys = keys(&pair, started, (old, &lines.0), (new, &lines.1));
        let how = match (pair.old, pair.new) {
            (None, _) => DiffKind::Added,
            (_, None) => DiffKind::Removed,
            (Some((before, _)), Some(_)) if keys.is_empty() => {
                // Only named items are counted: of `gateway` and the like there is only one.
                if !before.name.is_empty() {
                    *kept.entry(before.kind.to_string()).or_default() += 1;
                }
                continue;
            }
            _ => DiffKind::Changed,
        };
        let Some((name, _)) = pair.new.or(pair.old) else { continue };
        let moved = keys.iter().any(|key| key.key == "listen");
        let listener = &*name.kind == "listener" && (how != DiffKind::Changed || moved);
        let place = |side: Option<(&ItemName, &OutlineItem)>, lines: &LineIndex<'_>| {
            side.map_or(String::new(), |(_, item)| lines.locate(item.place))
        };
        let change = ItemDiff {
            means: if listener { ApplyMode::Rebind } else { ApplyMode::Swap },
            how,
            what: name.to_string(),
            old_place: place(pair.old, &lines.0),
            new_place: place(pair.new, &lines.1),
            keys: if how == DiffKind::Changed { keys } else { Vec::new() },
            open: OpenCounts::default(),
        };
        found.push(ConfigDifference { change, old: pair.old });
    }
    let restart = started.changes(&old.config, &new.config).into_iter();
    found.extend(restart.map(|change| ConfigDifference { change, old: None }));
    found.sort_by_key(|difference| difference.change.means);
    (found, kept)
}

/// One log line per difference. After [`MAX_LINES`] lines only the number of further ones follows.
pub(super) fn lines(differences: &[ConfigDifference<'_>]) -> Vec<String> {
    let mut changes: Vec<_> = differences.iter().map(|difference| &difference.change).collect();
    // Differences that need a restart come first, so that they are never cut off.
    changes.sort_by_key(|change| change.means != ApplyMode::NeedsRestart);
    let mut lines: Vec<_> = changes.into_iter().take(MAX_LINES).map(line).collect();
    if differences.len() > MAX_LINES {
        lines.push(format!("and {} more", differences.len() - MAX_LINES));
    }
    if lines.is_empty() {
        lines.push("only comments, spelling or file contents without effect".to_owned());
    }
    lines
}

fn line(change: &ItemDiff) -> String {
    let what = &change.what;
    match (change.means, change.how) {
        (ApplyMode::NeedsRestart, _) => format!("needs restart: {what}"),
        (_, DiffKind::Added) => format!("{what} added"),
        (_, DiffKind::Removed) => format!("{what} removed"),
        (_, DiffKind::Changed) => {
            let keys = change.keys.iter().take(MAX_KEYS_PER_LINE).map(format_change);
            let more = change.keys.len().saturating_sub(MAX_KEYS_PER_LINE);
            let more = if more > 0 { format!(", {more} more") } else { String::new() };
            format!("{what} changed: {}{more}", keys.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Formats a change of a key, such as `max-body "1MiB" -> "2MiB"`.
fn format_change(key: &KeyDiff) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(default)".to_owned());
    format!("{} {} -> {}", key.key, value(&key.old), value(&key.new))
}

/// Pairs the items of both generations by name. Items without a partner are then paired by
/// [`alike`], which finds a route whose methods changed and a listener whose address changed.
fn pairs<'a>(old: &'a Generation, new: &'a Generation) -> Vec<ItemPair<'a>> {
    let (before, after) = (&old.config.outline, &new.config.outline);
    let gone = alike(before.items().filter(|(name, _)| after.item(name).is_none()));
    let mut fresh = alike(after.items().filter(|(name, _)| before.item(name).is_none()));
    let mut pairs = Vec::new();
    for (name, item) in after.items() {
        if let Some(same) = before.item(name) {
            pairs.push(ItemPair { old: Some((name, same)), new: Some((name, item)) });
        }
    }
    for (group, gone) in gone {
        let fresh = fresh.remove(&group).unwrap_or_default();
        if let ([old], [new]) = (gone.as_slice(), fresh.as_slice())
            && (&*group.kind == "route" || (&*group.kind == "listener" && moved(old.1, new.1)))
        {
            pairs.push(ItemPair { old: Some(*old), new: Some(*new) });
            continue;
        }
        pairs.extend(gone.into_iter().map(|old| ItemPair { old: Some(old), new: None }));
        pairs.extend(fresh.into_iter().map(|new| ItemPair { old: None, new: Some(new) }));
    }
    pairs.extend(fresh.into_values().flatten().map(|new| ItemPair { old: None, new: Some(new) }));
    pairs
}

/// Groups items by the part of their name that stays the same when the methods of a route or the
/// address of a listener change.
fn alike<'a>(
    items: impl Iterator<Item = (&'a ItemName, &'a OutlineItem)>,
) -> BTreeMap<ItemName, Vec<(&'a ItemName, &'a OutlineItem)>> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    for (name, item) in items {
        let mut group = ItemName { further: "".into(), ..name.clone() };
        if &*group.kind == "listener" {
            group.name = "".into();
        }
        groups.entry(group).or_default().push((name, item));
    }
    groups
}

/// Whether two listeners differ only in their address.
fn moved(old: &OutlineItem, new: &OutlineItem) -> bool {
    let others = |item: &OutlineItem| -> Vec<(String, String)> {
        let others = item.keys().filter(|(key, _)| *key != "listen");
        others.map(|(key, value)| (key.to_owned(), value.exact().into_owned())).collect()
    };
    others(old) == others(new)
}

/// Keys of an item whose value, or the content of the file they name, has changed.
fn keys(
    pair: &ItemPair<'_>,
    started: &StartupOnly,
    (old, old_lines): (&Generation, &LineIndex<'_>),
    (new, new_lines): (&Generation, &LineIndex<'_>),
) -> Vec<KeyDiff> {
    let (Some((_, before)), Some((name, after))) = (pair.old, pair.new) else { return Vec::new() };
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).map(|(key, _)| key).collect();
    let mut found = Vec::new();
    for key in names.into_iter().filter(|key| !started.holds(name, key)) {
        let (was, is) = (before.key(key), after.key(key));
        let place = |value: Option<&OutlineValue>, lines: &LineIndex<'_>| {
            value.map_or(String::new(), |value| lines.locate(value.place))
        };
        let mut add = |key: String, old_value: Option<String>, new_value: Option<String>| {
            found.push(KeyDiff {
                key,
                old: old_value,
                new: new_value,
                old_place: place(was, old_lines),
                new_place: place(is, new_lines),
            });
        };
        if was.map(OutlineValue::exact) != is.map(OutlineValue::exact) {
            add(key.to_owned(), was.map(OutlineValue::shown), is.map(OutlineValue::shown));
        }
        let (Some(was), Some(is)) = (was, is) else { continue };
        let (held, holds) = (content(old, was), content(new, is));
        if held != holds {
            let ends = |generation: &Generation| {
                let end = (&*name.kind == "certificate")
                    .then(|| generation.certificate_expiry(&name.name, key));
                let end = end.flatten().map(display_timestamp);
                end.map_or(String::new(), |end| format!(", valid until {end}"))
            };
            let described = |content: Option<String>, generation: &Generation| {
                content.map(|content| format!("{content}{}", ends(generation)))
            };
            add(format!("{key} (contents)"), described(held, old), described(holds, new));
        }
    }
    found
}

/// Start of the SHA-256 hash of the file that a value names.
fn content(generation: &Generation, value: &OutlineValue) -> Option<String> {
    let path = generation.config.outline.file(value)?;
    let content = generation.contents.get(&path)?;
    let Some(hash) = content else { return Some("unreadable".to_owned()) };
    let beginning = hash.get(..4).unwrap_or_default();
    Some(format!("sha256 {}…", display_hex(beginning)))
}
