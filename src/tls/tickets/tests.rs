use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion, version,
};
use rustls_pki_types::{PrivateKeyDer, ServerName};

use super::*;
use crate::tls;

const HOUR: u64 = 3600;
const EPOCH: Duration = Duration::from_secs(8 * HOUR);

/// A settable clock of one gateway.
#[derive(Clone)]
struct Hands(Arc<AtomicU64>);

impl Hands {
    fn at(seconds: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seconds)))
    }

    fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    fn clock(&self) -> EpochClock {
        let hands = Arc::clone(&self.0);
        Arc::new(move || hands.load(Ordering::Relaxed))
    }
}

fn secrets(lines: &[&str]) -> KeySource {
    KeySource::Shared(Arc::new(SharedSecrets::parse(lines.join("\n").as_bytes()).unwrap()))
}

fn scope(profile: &str) -> TicketScope {
    TicketScope::new(profile, None)
}

/// Tickets of the profile `lan`.
fn tickets(source: KeySource, hands: &Hands) -> Arc<SessionTickets> {
    SessionTickets::by_clock(source, scope("lan"), EPOCH, hands.clock())
}

/// The first second of an epoch.
const fn epoch(number: u64) -> u64 {
    number * 8 * HOUR
}

#[test]
fn two_gateways_open_tickets_of_each_other_for_more_than_an_epoch() {
    let secret = SharedSecrets::random_line().unwrap();
    let (here, there) = (Hands::at(epoch(10) + 5), Hands::at(epoch(10) + 5));
    let (a, b) = (tickets(secrets(&[&secret]), &here), tickets(secrets(&[&secret]), &there));
    let ticket = a.encrypt(b"session").unwrap();
    assert_eq!(b.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    assert_eq!(u64::from(a.lifetime()), EPOCH.as_secs());

    let opens = |seconds: u64| {
        there.set(seconds);
        b.decrypt(&ticket).is_some()
    };
    assert!(opens(epoch(11)), "the next epoch");
    assert!(opens(epoch(12) - 1), "to its end");
    assert!(!opens(epoch(12)), "and no longer");
    assert!(opens(epoch(9)), "a clock that is behind");
    assert!(!opens(epoch(9) - 1), "but not by more than an epoch");
    assert!(!opens(0), "a clock that is not set");
    assert!(opens(epoch(10)), "time that came back");
}

#[test]
fn tickets_are_unique_and_cannot_be_modified() {
    let secret = SharedSecrets::random_line().unwrap();
    let tickets = tickets(secrets(&[&secret]), &Hands::at(epoch(3)));
    let (one, two) = (tickets.encrypt(b"session").unwrap(), tickets.encrypt(b"session").unwrap());
    assert_eq!(one[..NAME_LEN], two[..NAME_LEN]);
    assert_ne!(one[NAME_LEN..], two[NAME_LEN..]);
    for index in 0..one.len() {
        let mut bent = one.clone();
        bent[index] ^= 1;
        assert_eq!(tickets.decrypt(&bent), None, "byte {index}");
        assert_eq!(tickets.decrypt(&one[..index]), None, "{index} bytes");
    }
    assert_eq!(tickets.decrypt(&[one, vec![0]].concat()), None);
}

#[test]
fn a_secret_is_replaced_in_three_steps() {
    let (old, new) = (SharedSecrets::random_line().unwrap(), SharedSecrets::random_line().unwrap());
    let hands = Hands::at(epoch(3));
    let with = |lines: &[&str]| tickets(secrets(lines), &hands);
    let steps = [with(&[&old]), with(&[&old, &new]), with(&[&new, &old]), with(&[&new])];
    // One gateway is a step ahead of the other.
    for pair in steps.windows(2) {
        for (from, to) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            let ticket = from.encrypt(b"session").unwrap();
            assert!(to.decrypt(&ticket).is_some());
        }
    }
    let ticket = steps[0].encrypt(b"session").unwrap();
    assert!(steps[3].decrypt(&ticket).is_none());
}

#[test]
fn tickets_of_another_scope_or_secret_are_rejected() {
    let secret = SharedSecrets::random_line().unwrap();
    let hands = Hands::at(epoch(3));
    let of =
        |source: KeySource, scope| SessionTickets::by_clock(source, scope, EPOCH, hands.clock());
    let authority = vec![CertificateDer::from(vec![1, 2, 3])];
    let local = Arc::<LocalKeys>::default();
    for source in [secrets(&[&secret]), KeySource::Local(local)] {
        let lan = of(source.clone(), scope("lan"));
        let ticket = lan.encrypt(b"session").unwrap();
        for other in [
            scope("internet"),
            TicketScope::new("lan", Some(&(authority.clone(), false))),
            TicketScope::new("lan", Some(&(authority.clone(), true))),
        ] {
            assert!(of(source.clone(), other).decrypt(&ticket).is_none());
        }
        let stranger = SharedSecrets::random_line().unwrap();
        assert!(of(secrets(&[&stranger]), scope("lan")).decrypt(&ticket).is_none());
        assert!(of(source, scope("lan")).decrypt(&ticket).is_some());
    }
}

#[test]
fn local_keys_are_discarded_and_can_be_exported() {
    let hands = Hands::at(epoch(5));
    let local = Arc::<LocalKeys>::default();
    assert_eq!(local.export(), None);
    let before = tickets(KeySource::Local(Arc::clone(&local)), &hands);
    let old = before.encrypt(b"old").unwrap();
    hands.set(epoch(6));
    let new = before.encrypt(b"new").unwrap();
    assert!(before.decrypt(&old).is_some());

    let replacement = Arc::<LocalKeys>::default();
    assert!(replacement.import(&local.export().unwrap()));
    let after = tickets(KeySource::Local(replacement), &hands);
    assert_eq!(after.decrypt(&old).as_deref(), Some(&b"old"[..]));
    assert_eq!(after.decrypt(&new).as_deref(), Some(&b"new"[..]));
    assert!(before.decrypt(&after.encrypt(b"back").unwrap()).is_some());

    hands.set(epoch(7));
    assert!(after.decrypt(&old).is_none(), "two epochs later");
    assert!(after.decrypt(&new).is_some());
    hands.set(epoch(9));
    assert!(after.decrypt(&new).is_none(), "nobody came for an epoch");
    let newest = after.encrypt(b"newest").unwrap();
    hands.set(epoch(9) - 1);
    assert!(after.decrypt(&newest).is_some(), "a second back");
    hands.set(epoch(5));
    assert!(after.decrypt(&newest).is_none(), "far back: new keys");
    assert!(after.encrypt(b"still").is_some());
    for bad in ["", "x", "1", "1 AAAA", "-1 AAAA", "1 =="] {
        assert!(!LocalKeys::default().import(bad), "{bad}");
    }
}

#[test]
fn workers_that_begin_an_epoch_together_have_one_key() {
    let hands = Hands::at(0);
    let local = Arc::<LocalKeys>::default();
    let tickets = tickets(KeySource::Local(local), &hands);
    for number in 1..200 {
        hands.set(epoch(number));
        let sealed: Vec<_> = std::thread::scope(|scope| {
            let one = || tickets.encrypt(b"session").unwrap();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(sealed.iter().all(|ticket| tickets.decrypt(ticket).is_some()), "epoch {number}");
    }
}

/// Client and server of real handshakes.
struct Ends {
    client: Arc<ClientConfig>,
    certificate: (CertificateDer<'static>, Vec<u8>),
}

impl Ends {
    fn of(version: &'static SupportedProtocolVersion) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["gateway.test".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let mut client = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.resumption = Resumption::in_memory_sessions(8);
        let certificate = (certificate, made.signing_key.serialize_der());
        Self { client: Arc::new(client), certificate }
    }

    fn gateway(&self, tickets: Arc<SessionTickets>) -> Arc<ServerConfig> {
        let (chain, key) = &self.certificate;
        let key = PrivateKeyDer::try_from(key.clone()).unwrap();
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain.clone()], key)
            .unwrap();
        config.ticketer = tickets;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Arc::new(config)
    }

    /// Whether a handshake with this gateway resumed a session.
    fn resumes(&self, gateway: &Arc<ServerConfig>) -> bool {
        let name = ServerName::try_from("gateway.test").unwrap();
        let mut client = ClientConnection::new(Arc::clone(&self.client), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(gateway)).unwrap();
        while client.wants_write() || server.wants_write() {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            server.read_tls(&mut io::Cursor::new(sent)).unwrap();
            server.process_new_packets().unwrap();
            let mut answered = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answered).unwrap();
            }
            client.read_tls(&mut io::Cursor::new(answered)).unwrap();
            client.process_new_packets().unwrap();
        }
        server.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

#[test]
fn sessions_are_resumed_on_the_other_gateway() {
    for version in [&version::TLS12, &version::TLS13] {
        let ends = Ends::of(version);
        let secret = SharedSecrets::random_line().unwrap();
        let hands = Hands::at(epoch(100));
        let a = ends.gateway(tickets(secrets(&[&secret]), &hands));
        let b = ends.gateway(tickets(secrets(&[&secret]), &hands));
        let stranger = SharedSecrets::random_line().unwrap();
        let stranger = ends.gateway(tickets(secrets(&[&stranger]), &hands));
        assert!(!ends.resumes(&a), "the first is a full one");
        assert!(ends.resumes(&b));
        hands.set(epoch(101));
        assert!(ends.resumes(&a), "in the next epoch");
        hands.set(epoch(103));
        assert!(!ends.resumes(&b), "a ticket of two epochs before");
        assert!(ends.resumes(&a));
        assert!(!ends.resumes(&stranger), "another secret: a full handshake, no failure");
    }
}
