//! Complete configurations with a place for one key, for tests that write each key of each table.

const CERTIFICATE: &str =
    "[certificate.c]\npairs = [{ chain = \"dummy.pem\", key = \"dummy.pem\" }]\n";
const UPSTREAM: &str = "[upstream.u]\nendpoints = [\"https://10.0.0.5:1\"]\n";
const PROFILE: &str = "[profile.internet]\ncertificates = [\"c\"]\n";
const LISTENER: &str = "[[profile.internet.listener]]\nlisten = \"127.0.0.1:8443\"\n";
const ROUTE: &str = "[[profile.internet.route]]\npath = \"/\"\nupstream = \"u\"\n";
const FORWARD_LISTENER: &str = "[[forward.listener]]\nlisten = \"127.0.0.1:3128\"\n";
const PASSTHROUGH_LISTENER: &str = "[[tcp.t.listener]]\nlisten = \"127.0.0.1:7443\"\n";
const PASSTHROUGH_ROUTE: &str = "[[tcp.t.route]]\nupstream = \"u\"\n";

/// A complete configuration with a key of `table` in place of `@`; `None` for an unknown table.
pub(super) fn template(table: &str, key: &str) -> Option<String> {
    let base = [CERTIFICATE, UPSTREAM, PROFILE, LISTENER, ROUTE];
    let upstream = |more: &str| [&base[..2], &[more], &base[2..]].concat().concat();
    let profile = |more: &str| [&base[..3], &[more], &base[3..]].concat().concat();
    let listener = |more: &str| [&base[..4], &[more], &base[4..]].concat().concat();
    let last = |more: &[&str]| [&base[..], more].concat().concat();
    Some(match table {
        "GatewayFile" => last(&["[gateway]\n@"]),
        "DriftFile" => last(&[
            "[gateway]\nshared-secret-file = \"dummy.pem\"\n[gateway.drift]\npeers = [\"u\"]\n@",
        ]),
        "AccessLogTable" => last(&["[gateway.access-log]\nfile = \"./a.log\"\n@"]),
        "RotateFile" => last(&[
            "[gateway.access-log]\nfile = \"./a.log\"\n[gateway.access-log.rotate]\nsize = \"9MiB\"\n@",
        ]),
        "AdminFile" => last(&["[admin]\nlisten = \"127.0.0.1:9145\"\n@"]),
        "ProfileFile" => profile("trusted-proxies = [\"10.0.0.1\"]\n@"),
        "LimitsFile" => profile("[profile.internet.limits]\n@"),
        "TimeoutsFile" => profile("[profile.internet.timeouts]\n@"),
        "ListenerFile" => listener("client-ca = \"dummy.pem\"\n@"),
        "ProxyProtocolFile" => {
            listener("[profile.internet.listener.proxy-protocol]\nfrom = [\"10.0.0.1\"]\n@")
        }
        "RouteFile" if key == "status" => {
            last(&["[[profile.internet.route]]\npath = \"/a\"\nredirect = \"/b\"\n@"])
        }
        "RouteFile" => last(&["@"]),
        "SelfTestTable" => last(&[
            "[[profile.internet.route]]\npath = \"/t/\"\n[profile.internet.route.self-test]\n@",
        ]),
        "DoctorFile" => last(&["[doctor]\n@"]),
        "ForwardFile" => last(&["[forward]\n@", FORWARD_LISTENER]),
        "SniFile" => last(&["[forward.sni]\n@", FORWARD_LISTENER]),
        "ForwardLimitsFile" => last(&["[forward.limits]\n@", FORWARD_LISTENER]),
        "ForwardTimeoutsFile" => last(&["[forward.timeouts]\n@", FORWARD_LISTENER]),
        "ForwardListenerFile" => {
            last(&[FORWARD_LISTENER, "certificates = [\"c\"]\nclient-ca = \"dummy.pem\"\n@"])
        }
        "RuleFile" => last(&[
            FORWARD_LISTENER,
            "[[forward.rule]]\nname = \"r\"\nclients = [\"10.0.0.5\"]\nallow = [\"a.test\"]\n@",
        ]),
        "ParentFile" => {
            let rule = "[forward]\nvia = \"e\"\n";
            last(&[
                rule,
                FORWARD_LISTENER,
                "[[forward.parent]]\nname = \"e\"\nendpoints = [\"http://10.0.0.9:1\"]\n@",
            ])
        }
        "TcpFile" => last(&["[tcp.t]\n@", PASSTHROUGH_LISTENER, PASSTHROUGH_ROUTE]),
        "TcpLimitsFile" => last(&["[tcp.t.limits]\n@", PASSTHROUGH_LISTENER, PASSTHROUGH_ROUTE]),
        "TcpTimeoutsFile" => {
            last(&["[tcp.t.timeouts]\n@", PASSTHROUGH_LISTENER, PASSTHROUGH_ROUTE])
        }
        "TcpListenerFile" => last(&[PASSTHROUGH_LISTENER, "@", PASSTHROUGH_ROUTE]),
        "TcpRouteFile" => last(&[PASSTHROUGH_LISTENER, PASSTHROUGH_ROUTE, "@"]),
        "UpstreamFile" => upstream("@"),
        "CheckFile" => upstream("[upstream.u.check]\npath = \"/health\"\n@"),
        "EjectFile" => upstream("[upstream.u.eject]\n@"),
        "FailoverFile" => upstream("backup = [\"https://10.0.1.5:1\"]\n[upstream.u.failover]\n@"),
        _ => return None,
    })
}
