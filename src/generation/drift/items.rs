//! Items compared for drift: every configuration key as written, and the contents of the named
//! files.
//!
//! In: a generation. Out: named items with their values, ready to be hashed. Excluded: private keys
//! of certificates, because the certificates represent them, and values that differ between hosts
//! by nature.

use std::collections::BTreeMap;

use crate::config::outline::{self, ItemName, OutlineValue};
use crate::tls::SharedSecrets;
use crate::units::display_timestamp;

use crate::generation::Generation;

/// Kind and key of values that differ between any two hosts.
const HOST_SPECIFIC_KEYS: [(&str, &str); 4] =
    [("listener", "listen"), ("forward", "listen"), ("admin", "listen"), ("admin", "socket")];

/// Last part of the name of an item that covers the contents of a file.
const CONTENTS_NAME: &str = "contents";

/// One compared item.
pub(super) struct DriftItem {
    /// One of [`super::CLASSES`].
    pub(super) class: &'static str,
    /// Name of the item, for example `profile.lan.hosts`.
    pub(super) what: String,
    /// Input of the keyed hash.
    pub(super) value: Vec<u8>,
    /// The value for people, with its place in the configuration.
    pub(super) here: String,
}

/// All items, sorted by name.
pub(super) fn collect(generation: &Generation, secrets: &SharedSecrets) -> Vec<DriftItem> {
    let config = &generation.config;
    let lines = config.sources.lines();
    let numbers = listener_numbers(generation);
    let mut others = generation.contents.clone();
    let pairs = config.certificates.iter().flat_map(|certificate| &certificate.pairs);
    for pair in pairs.filter(|pair| pair.key != pair.chain) {
        others.remove(&pair.key);
    }
    let mut all = vec![DriftItem {
        class: "version",
        what: "program".to_owned(),
        value: env!("CARGO_PKG_VERSION").as_bytes().to_vec(),
        here: env!("CARGO_PKG_VERSION").to_owned(),
    }];
    all.push(DriftItem {
        class: "secrets",
        what: format!("gateway.shared-secret-file.{CONTENTS_NAME}"),
        value: secrets.keys("drift secrets", &[]).collect::<Vec<_>>().concat(),
        here: String::new(),
    });
    if let Some(shared) = &config.gateway.shared_secret {
        others.remove(&shared.file);
    }
    for (name, item) in config.outline.items().filter(|(name, _)| !is_peer(generation, name)) {
        let item_name = item_name(name, numbers.get(name));
        for (key, value) in item.keys() {
            let content = config.outline.file(value).and_then(|path| others.remove(&path));
            let own = |own: &(&str, &str)| (&*name.kind, key) == *own;
            if HOST_SPECIFIC_KEYS.iter().any(own)
                || &*name.kind == "gateway" && key.starts_with("drift.")
            {
                continue;
            }
            let what = format!("{item_name}.{key}");
            let place = lines.locate(value.place);
            if let Some(content) = content {
                all.push(DriftItem {
                    class: class(key),
                    what: format!("{what}.{CONTENTS_NAME}"),
                    value: content.map_or_else(Vec::new, |hash| hash.to_vec()),
                    here: shown_file(generation, name, key, value, &place),
                });
            }
            all.push(DriftItem {
                class: if value.is_secret() { "secrets" } else { "configuration" },
                what,
                value: value.exact().as_bytes().to_vec(),
                here: format!("{} ({place})", value.shown()),
            });
        }
    }
    // Files that are elements of a list, or that several keys name.
    let mut rest: Vec<_> = others.into_values().flatten().collect();
    rest.sort_unstable();
    if !rest.is_empty() {
        let (class, what) = ("configuration", format!("other-files.{CONTENTS_NAME}"));
        all.push(DriftItem { class, what, value: rest.concat(), here: String::new() });
    }
    all.sort_by(|a, b| a.what.cmp(&b.what));
    all
}

/// Whether an item belongs to an upstream that consists of peer gateways, which has other addresses
/// on each of them.
fn is_peer(generation: &Generation, name: &ItemName) -> bool {
    let peers = generation.config.drift.iter().flat_map(|drift| &drift.peers);
    let mut names = peers.filter_map(|id| generation.config.upstreams.get(id.0));
    &*name.kind == "upstream" && names.any(|upstream| *upstream.name == *name.name)
}

/// Numbers of listeners within their profiles. Their names are addresses, which differ between
/// hosts.
fn listener_numbers(generation: &Generation) -> BTreeMap<&ItemName, usize> {
    let items = generation.config.outline.items();
    let mut listeners: Vec<(&ItemName, &outline::OutlineItem)> =
        items.filter(|(name, _)| &*name.kind == "listener").collect();
    listeners.sort_by_key(|(name, item)| (&name.within, item.place.file, item.place.start));
    let (mut numbers, mut last) = (BTreeMap::new(), ("", 0));
    for (name, _) in listeners {
        let number = if last.0 == &*name.within { last.1 + 1 } else { 1 };
        last = (&name.within, number);
        numbers.insert(name, number);
    }
    numbers
}

/// Name of an item, for example `route.lan./x/ GET`, `profile.lan` or `gateway`.
fn item_name(name: &ItemName, number: Option<&usize>) -> String {
    let own = match number {
        Some(number) => number.to_string(),
        None if name.further.is_empty() => name.name.to_string(),
        None => format!("{} {}", name.name, name.further),
    };
    let parts = [&*name.kind, &*name.within, &own];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(".")
}

/// Class of the file that a key names.
fn class(key: &str) -> &'static str {
    if key.contains("users") {
        "users"
    } else if outline::is_secret(key) {
        "secrets"
    } else {
        "certificates"
    }
}

/// Description of a file: its path, and the expiry of a certificate of the gateway.
fn shown_file(
    generation: &Generation,
    name: &ItemName,
    key: &str,
    value: &OutlineValue,
    place: &str,
) -> String {
    let ends = (&*name.kind == "certificate")
        .then(|| generation.certificate_expiry(&name.name, key))
        .flatten();
    let until = ends.map_or(String::new(), |ends| format!(", until {}", display_timestamp(ends)));
    format!("{}{until} ({place})", value.shown())
}
