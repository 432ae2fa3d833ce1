//! Checks of the public name: resolution, certificates, reachability, and the webhook URLs to
//! register at each platform.

use std::net::{IpAddr, UdpSocket};

use crate::config::{Action, Config, PathPattern, Profile};
use crate::tls::{self, client};

use super::RowCheck;
use super::probe::{ExpectedIdentity, ProbeError, TimeBudget, connect, resolve, secure, shown};
use super::row::{DoctorRow, RowGroup};

/// Twilio's connection overrides for three more tries, after failed connections, time-outs, and
/// answers 4xx and 5xx. They are a fragment, so no request carries them.
const TWILIO_RETRIES: &str = "#rc=3&rp=all";

/// The platforms: name, the path as the Customer Channel Manager knows it, and what to know about
/// them.
const WEBHOOKS: [(&str, &str, &str); 6] = [
    (
        "webhook-facebook",
        "/webhook",
        "at developers.facebook.com, Messenger > Settings > Webhooks; the certificate has to be of a public CA",
    ),
    (
        "webhook-viber",
        "/viber-message/receive",
        "by set_webhook of Viber's API; the chain of the certificate has to be whole",
    ),
    (
        "webhook-twilio",
        "/msg-client/receive",
        "at console.twilio.com, as \"A message comes in\" of the number, whole: without what follows `#` a message is lost that comes while there is no answer",
    ),
    (
        "webhook-twilio-status",
        "/msg-client/delivery-notification",
        "at console.twilio.com, as status callback, with what follows `#`",
    ),
    ("webhook-360dialog", "/360notifications", "by the API of 360dialog, as webhook of the number"),
    ("webhook-twitter", "/webhook/twitter", "by the Account Activity API of Twitter"),
];

/// Every check here.
pub(super) fn checks(config: &Config) -> Vec<RowCheck> {
    let mut checks = vec![super::known(webhooks(config))];
    let Some(fqdn) = config.doctor.fqdn.clone() else {
        let row = DoctorRow::new(RowGroup::Public, "system configuration", "fqdn", "");
        checks.push(super::known(vec![row.not_configured("fqdn = \"chat.example.com\"")]));
        return checks;
    };
    let (total, port) = (config.doctor.timeout, config.doctor.public_port);
    let name = fqdn.clone();
    checks.push(Box::pin(async move { vec![resolves(&name, port, TimeBudget::new(total)).await] }));
    checks.push(Box::pin(async move { vec![reached(&fqdn, port, TimeBudget::new(total)).await] }));
    checks
}

async fn resolves(fqdn: &str, port: u16, budget: TimeBudget) -> DoctorRow {
    let row = DoctorRow::new(RowGroup::Public, "system configuration", "fqdn", fqdn);
    let addresses = match resolve(fqdn, port, budget).await {
        Ok(addresses) => addresses,
        Err(trouble) => {
            return row.failed(
                trouble.to_string(),
                "have the name added to DNS: publicly with the public address, and inside with that of this host",
            );
        }
    };
    let mut ips: Vec<IpAddr> = addresses.iter().map(|address| address.get().ip()).collect();
    ips.dedup();
    let list: Vec<_> = ips.iter().map(IpAddr::to_string).collect();
    let list = list.join(", ");
    if ips.iter().any(IpAddr::is_loopback) {
        return row.warning(
            format!("resolves to {list} here"),
            "/etc/hosts of this host has its own entry; other hosts may get other addresses: resolve the name from another host",
        );
    }
    let own = ips.iter().any(|ip| UdpSocket::bind((*ip, 0)).is_ok());
    let selected = if own {
        "an address of this host"
    } else {
        "no address of this host: a balancer or address translation is in front"
    };
    row.good(format!("resolves to {list}, {selected}"))
}

async fn reached(fqdn: &str, port: u16, budget: TimeBudget) -> DoctorRow {
    let target = format!("{fqdn}:{port}");
    let row = DoctorRow::new(RowGroup::Public, "connectivity 1-2", "public-port", target.clone());
    let look = async {
        let tcp = connect(fqdn, port, budget).await?;
        let settings = client::config(client::UpstreamTrust::System, &tls::provider());
        let proof = ExpectedIdentity {
            settings: settings.map_err(ProbeError::Tls)?,
            name: fqdn.to_owned(),
        };
        Ok(secure(tcp, &proof, budget).await?.1)
    };
    match look.await {
        Ok(secured) => {
            let line = secured.shown.map_or(String::new(), |shown| format!(", {}", shown.time()));
            row.good(format!("reached from here, {}, verified by the system's CAs{line}", secured.version))
        }
        Err(trouble @ ProbeError::Certificate(_)) => {
            let shown = shown(fqdn, port, fqdn, TimeBudget::new(budget.total)).await;
            let line = shown.map_or(String::new(), |shown| format!(": {}", shown.line()));
            row.warning(
                format!("{trouble}{line}"),
                "platforms refuse it too: use the certificate of a public CA with its whole chain",
            )
        }
        // From inside, a firewall may not turn packets back.
        Err(trouble) => row.warning(
            trouble.to_string(),
            format!("not reachable from here; many firewalls do not forward from inside to their own public address. Try from the internet: curl -v https://{target}/"),
        ),
    }
}

/// Webhook URLs to register at each platform. The platforms connect from outside, so these URLs
/// cannot be tested from here.
fn webhooks(config: &Config) -> Vec<DoctorRow> {
    let public = |profile: &&Profile| config.doctor.public_profiles.contains(&profile.name);
    let profiles: Vec<_> = config.profiles.iter().filter(public).collect();
    let passed = config.tcp.iter().find(|tcp| config.doctor.public_profiles.contains(&tcp.name));
    if let (true, Some(tcp)) = (profiles.is_empty(), passed) {
        let row = DoctorRow::new(RowGroup::Public, "connectivity 1", "webhooks", "");
        return vec![row.note(
            format!("[tcp.{}] passes them through to gateways that have the routes", tcp.name),
            "run doctor on one of those gateways: it prints the URLs to register",
        )];
    }
    let port = config.doctor.public_port;
    let authority = match (&config.doctor.fqdn, port) {
        (None, _) => "FQDN".to_owned(),
        (Some(fqdn), 443) => fqdn.clone(),
        (Some(fqdn), port) => format!("{fqdn}:{port}"),
    };
    let one = |(name, path, hint): &(&str, &str, &str)| {
        let row = DoctorRow::new(RowGroup::Public, "connectivity 1", *name, "");
        match profiles.iter().find_map(|profile| outside(profile, path)) {
            Some(path) => {
                let overrides =
                    if name.starts_with("webhook-twilio") { TWILIO_RETRIES } else { "" };
                DoctorRow { target: format!("https://{authority}{path}{overrides}"), ..row }
                    .note("", format!("register this URL: {hint}"))
            }
            None => row.note(
                "no route of a public profile leads there",
                format!("if you use it, add a route to {path} of the Customer Channel Manager"),
            ),
        }
    };
    WEBHOOKS.iter().map(one).collect()
}

/// The path of the route that leads to `path` of a component.
fn outside<'a>(profile: &'a Profile, path: &str) -> Option<&'a str> {
    profile.routes.iter().find_map(|route| {
        let Action::Proxy { strip_prefix: Some(prefix), .. } = &route.action else { return None };
        let PathPattern::Exact(written) = &route.path else { return None };
        (written.strip_prefix(prefix.as_str()) == Some(path)).then_some(&**written)
    })
}
