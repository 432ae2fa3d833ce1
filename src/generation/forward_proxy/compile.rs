//! Compiles the checked `[forward]` table into a [`ForwardProxy`].
//!
//! Reads the files it names: users, credentials, CAs.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;

use crate::config::problem::{Problem, Span};
use crate::config::{
    self, ClientCertificates, Config, Forward, ForwardListener, SecretFile, Verify, is_loopback,
};
use crate::egress::{BasicCredentials, EgressPolicy, EgressRule, Guard, OwnAddress, Users};
use crate::generation::compile::Purpose;
use crate::generation::shared::SharedKeys;
use crate::generation::{ConfigVersion, Generation, certificates};
use crate::tls::tickets::TicketScope;
use crate::tls::{CertifiedPair, ServerTls, certificate, client, server};
use crate::upstream::Endpoint;

use super::{ForwardProxy, ForwardProxyListener, ParentProxy, Secret};

/// Inputs for compiling the forward proxy.
pub struct ForwardInputs<'a> {
    /// The whole configuration.
    pub config: &'a Config,
    /// Its certificates, loaded.
    pub loaded: &'a [Vec<CertifiedPair>],
    /// Crypto provider.
    pub provider: &'a Arc<CryptoProvider>,
    /// The generation to carry state over from.
    pub previous: Option<&'a Generation>,
    /// Version of the new generation.
    pub config_version: &'a Arc<ConfigVersion>,
    /// Source of the ticket keys.
    pub shared: &'a SharedKeys,
    /// With [`Purpose::Explain`], invalid parts are left out; with [`Purpose::Serve`], they are
    /// errors.
    pub(in crate::generation) purpose: Purpose,
}

impl ForwardInputs<'_> {
    /// `result`, or for [`Purpose::Explain`] a default in place of a missing one.
    fn or_default<T: Default>(&self, result: Option<T>) -> Option<T> {
        match self.purpose {
            Purpose::Serve => result,
            Purpose::Explain => Some(result.unwrap_or_default()),
        }
    }
}

/// Compiles `[forward]`. If an error is added to `problems`, the result must not be used.
pub fn compile(
    forward: &Forward,
    inputs: &ForwardInputs<'_>,
    problems: &mut Vec<Problem>,
) -> Option<ForwardProxy> {
    let users = users(forward, problems);
    let parents: Vec<_> =
        forward.parents.iter().map(|written| parent(written, inputs, problems)).collect();
    let listeners: Vec<_> =
        forward.listeners.iter().map(|written| listener(written, inputs, problems)).collect();
    let sources = &inputs.config.sources;
    let rules = forward
        .rules
        .iter()
        .map(|rule| EgressRule { settings: rule.clone(), at: sources.locate(rule.place) });
    let origin_tls = origin_tls(forward, inputs, problems);
    let hosts = forward.hosts.iter();
    let hosts = hosts.map(|host| (host.name.clone(), Arc::from(host.addresses.as_slice())));
    let before = inputs.previous.and_then(|generation| generation.forward_proxy.as_ref());
    Some(ForwardProxy {
        listeners: inputs.or_default(listeners.into_iter().collect::<Option<_>>())?,
        policy: EgressPolicy::new(rules.collect()),
        guard: Guard::new(own_addresses(inputs.config)).behind(forward.nat64.clone()),
        users: inputs.or_default(users)?,
        parents: parents.into_iter().collect::<Option<_>>()?,
        origin_tls: inputs.or_default(origin_tls)?,
        hosts: hosts.collect(),
        limits: forward.limits.clone(),
        timeouts: forward.timeouts.clone(),
        seen: before.map(|forward_proxy| Arc::clone(&forward_proxy.seen)).unwrap_or_default(),
        config_version: Arc::clone(inputs.config_version),
    })
}

/// Every address the gateway listens on. The forward proxy never connects to its own listeners,
/// which would be a loop, or to the admin listener.
fn own_addresses(config: &Config) -> Vec<OwnAddress> {
    let virtual_servers = config.profiles.iter().flat_map(|profile| &profile.listeners);
    let virtual_servers = virtual_servers
        .map(|listener| OwnAddress { address: listener.listen, may_be_listed: true });
    let passthrough_listeners = config.tcp.iter().flat_map(|tcp| &tcp.listeners);
    let passthrough_listeners =
        passthrough_listeners.map(|l| OwnAddress { address: l.listen, may_be_listed: true });
    let admin = config.admin.iter().map(|admin| admin.listen);
    let forward = config.forward.iter().flat_map(|forward| &forward.listeners);
    let never = admin.chain(forward.map(|listener| listener.listen));
    virtual_servers
        .chain(passthrough_listeners)
        .chain(never.map(|address| OwnAddress { address, may_be_listed: false }))
        .collect()
}

fn config_error(code: &'static str, place: Span, message: String, help: &str) -> Problem {
    Problem::error(code, place, message).with_label("named here").with_help(help)
}

/// The users file. `None` if it is invalid, `Some(None)` if none is configured.
#[expect(clippy::option_option, reason = "invalid, absent and present are three cases")]
fn users(forward: &Forward, problems: &mut Vec<Problem>) -> Option<Option<Arc<Users>>> {
    let Some(written) = &forward.users else { return Some(None) };
    let path = written.file.display();
    let file = SecretFile::read(&written.file);
    let text = match &file {
        Ok(file) => file.expose_text().map_err(ToOwned::to_owned),
        Err(error) => Err(error.clone()),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            let message = format!("the users file `{path}` cannot be read: {error}");
            let help = "it is written by `htpasswd -B FILE USER`";
            problems.push(config_error("forward.users-file", written.place, message, help));
            return None;
        }
    };
    let users = match Users::parse(text) {
        Ok(users) => users,
        Err(bad) => {
            for line in bad {
                let at = if line.line == 0 { String::new() } else { format!(":{}", line.line) };
                let message = format!("{path}{at}: {}", line.error);
                problems.push(
                    Problem::error("forward.users-file", written.place, message)
                        .with_label("named here"),
                );
            }
            return None;
        }
    };
    for rule in &forward.rules {
        for user in rule.users.iter().filter(|user| !users.contains(user)) {
            let message =
                format!("rule `{}` is for user `{user}`, who is not in {path}", rule.name);
            let help = format!("add the user with `htpasswd -B {path} {user}`");
            problems.push(
                Problem::error("forward.unknown-user", rule.place, message)
                    .with_label("no such user can log in")
                    .with_related(written.place, "the users file")
                    .with_help(help),
            );
        }
    }
    Some(Some(Arc::new(users)))
}

fn listener(
    written: &ForwardListener,
    inputs: &ForwardInputs<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Arc<ForwardProxyListener>> {
    let tls = if written.certificates.is_empty() {
        None
    } else {
        if !is_loopback(written.listen.ip()) {
            let at = (written.listen, written.place);
            let (config, loaded) = (inputs.config, inputs.loaded);
            certificates::judge_exposed(&written.certificates, at, config, loaded, problems);
        }
        Some(tls(written, inputs, problems)?)
    };
    Some(Arc::new(ForwardProxyListener {
        address: written.listen,
        label: written.listen.to_string(),
        place: written.place,
        proxy_protocol: written.proxy_protocol.clone(),
        tls,
    }))
}

fn tls(
    written: &ForwardListener,
    inputs: &ForwardInputs<'_>,
    problems: &mut Vec<Problem>,
) -> Option<ServerTls> {
    let (ca, place) = match &written.client_certificates {
        ClientCertificates::Off => (None, written.place),
        ClientCertificates::Optional { ca, place } => (Some((ca, false)), *place),
        ClientCertificates::Required { ca, place } => (Some((ca, true)), *place),
    };
    let help = "the file must be PEM, with the CA certificates that issue client certificates";
    let clients = match ca {
        None => None,
        Some((ca, required)) => match certificate::read_authorities(ca) {
            Ok(authorities) => Some((authorities, required)),
            Err(error) => {
                let help = error.help().unwrap_or(help);
                problems.push(config_error("listener.client-ca", place, error.to_string(), help));
                return None;
            }
        },
    };
    let chosen = written.certificates.iter().filter_map(|id| inputs.loaded.get(id.0));
    let identities: Vec<_> = chosen.filter(|pairs| !pairs.is_empty()).cloned().collect();
    if identities.is_empty() {
        // The problem was reported when the certificates were loaded.
        return None;
    }
    let settings = server::TlsSettings {
        identities,
        reject_unknown: false,
        http2: false,
        tickets: inputs.shared.tickets(TicketScope::new("forward", clients.as_ref())),
        clients,
    };
    match server::config(settings, inputs.provider) {
        Ok(tls) => Some(tls),
        Err(message) => {
            problems.push(config_error("listener.client-ca", place, message, help));
            None
        }
    }
}

fn parent(
    written: &config::Parent,
    inputs: &ForwardInputs<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Arc<ParentProxy>> {
    let authorization = match &written.credentials {
        None => None,
        Some((file, place)) => inputs.or_default(credentials(file, *place, problems).map(Some))?,
    };
    let mut hasher = DefaultHasher::new();
    let uses_tls = written.endpoints.iter().any(|endpoint| endpoint.tls);
    let tls = if uses_tls {
        inputs.or_default(trust(written, inputs, &mut hasher, problems).map(Some))?
    } else {
        None
    };
    let trusted = hasher.finish();
    let mut endpoints = Vec::new();
    for endpoint in &written.endpoints {
        let verified = match &tls {
            Some(tls) if endpoint.tls => {
                let Ok(name) = ServerName::try_from(endpoint.host.clone()) else {
                    let message =
                        format!("`{}` is not a name that a certificate can contain", endpoint.host);
                    let help = "name the parent as its certificate does";
                    problems.push(config_error(
                        "forward.parent-name",
                        endpoint.place,
                        message,
                        help,
                    ));
                    inputs.or_default(None::<()>)?;
                    continue;
                };
                Some((Arc::clone(tls), name))
            }
            _ => None,
        };
        let mut hasher = DefaultHasher::new();
        ("parent", &endpoint.host, endpoint.port, endpoint.tls, trusted).hash(&mut hasher);
        let identity = hasher.finish();
        let known = inputs.previous.and_then(|generation| {
            generation.endpoints().find(|endpoint| endpoint.identity == identity).cloned()
        });
        endpoints.push(known.unwrap_or_else(|| {
            Arc::new(Endpoint::new(endpoint.host.clone(), endpoint.port, verified, identity))
        }));
    }
    Some(Arc::new(ParentProxy {
        name: written.name.clone(),
        place: written.place,
        endpoints,
        authorization,
        no_proxy: written.no_proxy.clone(),
        connect_timeout: written.connect_timeout,
    }))
}

/// TLS settings towards a parent proxy. The trusted certificates are added to `hasher`.
fn trust(
    written: &config::Parent,
    inputs: &ForwardInputs<'_>,
    hasher: &mut DefaultHasher,
    problems: &mut Vec<Problem>,
) -> Option<Arc<ClientConfig>> {
    let built = verified_by(&written.verify, inputs, hasher);
    let place = if let Verify::Ca { place, .. } = written.verify { place } else { written.place };
    let refuse = |message| {
        let help = "the file must be PEM, with the CA certificate that issued the parent's";
        problems.push(config_error("forward.parent-trust", place, message, help));
    };
    built.map_err(refuse).ok()
}

/// TLS settings towards origins. `None` if they are invalid, `Some(None)` if none are configured.
#[expect(clippy::option_option, reason = "invalid, absent and present are three cases")]
fn origin_tls(
    forward: &Forward,
    inputs: &ForwardInputs<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Option<Arc<ClientConfig>>> {
    let Some(verify) = &forward.https_absolute_form else { return Some(None) };
    let place = if let Verify::Ca { place, .. } = verify { *place } else { forward.place };
    let refuse = |message| {
        let help = "the file must be PEM, with the CA certificates that issue those of the origins";
        problems.push(config_error("forward.https-trust", place, message, help));
    };
    verified_by(verify, inputs, &mut DefaultHasher::new()).map(Some).map_err(refuse).ok()
}

fn verified_by(
    verify: &Verify,
    inputs: &ForwardInputs<'_>,
    hasher: &mut DefaultHasher,
) -> Result<Arc<ClientConfig>, String> {
    let trust = match verify {
        Verify::Ca { file, .. } => {
            let authorities = certificate::read_authorities(file).map_err(|e| e.to_string())?;
            for authority in &authorities {
                authority.as_ref().hash(hasher);
            }
            client::UpstreamTrust::Authorities(authorities)
        }
        _ => client::UpstreamTrust::System,
    };
    client::config(trust, inputs.provider)
}

/// Value of `Proxy-Authorization`, from the first line (`user:password`) of the file.
fn credentials(file: &std::path::Path, place: Span, problems: &mut Vec<Problem>) -> Option<Secret> {
    let help = "the file has one line: USER:PASSWORD";
    let read = SecretFile::read(file).map_err(|error| format!("cannot be read: {error}"));
    let parsed = read.and_then(|file| login(&file).map_err(ToOwned::to_owned));
    let refuse = |error| {
        let message = format!("the credentials file `{}` {error}", file.display());
        problems.push(config_error("forward.credentials", place, message, help));
    };
    parsed.map_err(refuse).ok()
}

fn login(file: &SecretFile) -> Result<Secret, &'static str> {
    let text = file.expose_text().map_err(|_| "is not text in UTF-8")?;
    let line = text.lines().next().unwrap_or_default();
    let (user, password) = line.split_once(':').ok_or("does not begin with USER:PASSWORD")?;
    if user.is_empty() || line.chars().any(char::is_control) {
        return Err("has an empty user, or a character that cannot be sent");
    }
    let basic = BasicCredentials { user: user.to_owned(), password: password.as_bytes().to_vec() };
    Ok(Secret(basic.to_field()))
}
