//! What is different about the forward proxy.

use std::collections::BTreeMap;

use crate::config::{ClientCertificates, Forward};
use crate::generation::Generation;

/// Lines about listeners, rules, parents and settings of `[forward]`.
pub(super) fn compare(lines: &mut Vec<String>, old: &Generation, new: &Generation) {
    let (old, new) = (old.config.forward.as_ref(), new.config.forward.as_ref());
    super::compare(lines, "forward listener", &listeners(old), &listeners(new));
    super::compare(lines, "forward rule", &rules(old), &rules(new));
    super::compare(lines, "forward parent", &parents(old), &parents(new));
    if let (Some(old), Some(new)) = (old, new)
        && settings(old) != settings(new)
    {
        lines.push("forward settings changed".to_owned());
    }
}

fn listeners(forward: Option<&Forward>) -> BTreeMap<String, String> {
    let all = forward.into_iter().flat_map(|forward| &forward.listeners);
    all.map(|listener| {
        let clients = match &listener.client_certificates {
            ClientCertificates::Off => String::new(),
            ClientCertificates::Optional { ca, .. } => format!("optional {}", ca.display()),
            ClientCertificates::Required { ca, .. } => format!("required {}", ca.display()),
        };
        (listener.listen.to_string(), format!("{:?} {clients}", listener.certificates))
    })
    .collect()
}

fn rules(forward: Option<&Forward>) -> BTreeMap<String, String> {
    let all = forward.into_iter().flat_map(|forward| forward.rules.iter().enumerate());
    all.map(|(number, rule)| {
        let who = (&rule.clients, &rule.users, &rule.client_names);
        let what = (rule.effect, &rule.destinations, &rule.ports, &rule.addresses);
        let how = (rule.mode, rule.sni, rule.sni_elsewhere, rule.rate, rule.via);
        let when = (rule.from, rule.until);
        // Its number: the first rule that allows decides.
        (rule.name.clone(), format!("{number} {who:?} {what:?} {how:?} {when:?}"))
    })
    .collect()
}

fn parents(forward: Option<&Forward>) -> BTreeMap<String, String> {
    let all = forward.into_iter().flat_map(|forward| &forward.parents);
    all.map(|parent| {
        let endpoints: Vec<_> = parent.endpoints.iter().map(|e| (e.tls, &e.host, e.port)).collect();
        let credentials = parent.credentials.as_ref().map(|(file, _)| file);
        let text = format!(
            "{endpoints:?} {credentials:?} {:?} {:?}",
            parent.no_proxy, parent.connect_timeout
        );
        (parent.name.clone(), text)
    })
    .collect()
}

fn settings(forward: &Forward) -> String {
    let users = forward.users.as_ref().map(|users| &users.file);
    format!(
        "{users:?} {:?} {:?} {:?} {:?}",
        forward.https_absolute_form.is_some(),
        forward.hosts,
        forward.limits,
        forward.timeouts
    )
}
