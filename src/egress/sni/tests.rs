use super::*;

#[test]
fn the_server_name_is_compared_with_the_requested_host() {
    let hello = |sni: Option<&str>| {
        HelloProgress::Hello(ClientHello { sni: sni.map(str::to_owned), ech: false })
    };
    let lenient = SniPolicy {
        mismatch: SniAction::Log,
        missing: SniAction::Allow,
        not_tls: SniAction::Log,
        ech: SniAction::Allow,
    };
    let refused = SniVerdict::Refused;
    let cases = [
        ("a.com:443", hello(Some("a.com")), SniVerdict::Pass, SniVerdict::Pass),
        ("A.com.:443", hello(Some("a.com")), SniVerdict::Pass, SniVerdict::Pass),
        (
            "a.com:443",
            hello(Some("b.com")),
            refused(Reason::SniMismatch),
            SniVerdict::Logged(Reason::SniMismatch),
        ),
        (
            "a.com:443",
            hello(Some("x.a.com")),
            refused(Reason::SniMismatch),
            SniVerdict::Logged(Reason::SniMismatch),
        ),
        ("a.com:443", hello(None), refused(Reason::SniMissing), SniVerdict::Pass),
        (
            "a.com:443",
            HelloProgress::NotTls,
            refused(Reason::NotTls),
            SniVerdict::Logged(Reason::NotTls),
        ),
        (
            "a.com:443",
            HelloProgress::Malformed,
            refused(Reason::BadHello),
            SniVerdict::Logged(Reason::BadHello),
        ),
        (
            "a.com:443",
            HelloProgress::TooLarge,
            refused(Reason::BadHello),
            SniVerdict::Logged(Reason::BadHello),
        ),
        (
            "a.com:443",
            HelloProgress::NeedMore,
            refused(Reason::BadHello),
            SniVerdict::Logged(Reason::BadHello),
        ),
        ("8.8.8.8:443", hello(None), SniVerdict::Pass, SniVerdict::Pass),
        ("8.8.8.8:443", hello(Some("8.8.8.8")), SniVerdict::Pass, SniVerdict::Pass),
        (
            "8.8.8.8:443",
            hello(Some("a.com")),
            refused(Reason::SniMismatch),
            SniVerdict::Logged(Reason::SniMismatch),
        ),
    ];
    for (asked, said, strict, other) in cases {
        let destination = Destination::parse(asked.as_bytes(), None).unwrap();
        assert_eq!(judge(SniPolicy::STRICT, &destination, &said), strict, "{asked} {said:?}");
        assert_eq!(judge(lenient, &destination, &said), other, "{asked} {said:?}");
        assert_eq!(
            judge(SniPolicy::OFF, &destination, &said),
            SniVerdict::Pass,
            "{asked} {said:?}"
        );
    }
}

#[test]
fn an_encrypted_hello_is_checked_in_addition_to_the_name() {
    let destination = Destination::parse(b"a.com:443", None).unwrap();
    let said =
        |name: &str, ech| HelloProgress::Hello(ClientHello { sni: Some(name.to_owned()), ech });
    let sni = |mismatch, ech| SniPolicy { mismatch, ech, ..SniPolicy::STRICT };
    let (right, wrong) = (said("a.com", true), said("b.com", true));
    let cases = [
        (sni(SniAction::Refuse, SniAction::Allow), &right, SniVerdict::Pass),
        (sni(SniAction::Refuse, SniAction::Log), &right, SniVerdict::Logged(Reason::EgressEch)),
        (sni(SniAction::Refuse, SniAction::Refuse), &right, SniVerdict::Refused(Reason::EgressEch)),
        (
            sni(SniAction::Refuse, SniAction::Refuse),
            &wrong,
            SniVerdict::Refused(Reason::SniMismatch),
        ),
        (sni(SniAction::Log, SniAction::Refuse), &wrong, SniVerdict::Refused(Reason::EgressEch)),
        (sni(SniAction::Log, SniAction::Log), &wrong, SniVerdict::Logged(Reason::SniMismatch)),
        (sni(SniAction::Allow, SniAction::Log), &wrong, SniVerdict::Logged(Reason::EgressEch)),
    ];
    for (sni, said, expected) in cases {
        assert_eq!(judge(sni, &destination, said), expected, "{sni:?} {said:?}");
        assert!(wants_hello(sni));
    }
    let refuse = sni(SniAction::Refuse, SniAction::Refuse);
    assert_eq!(judge(refuse, &destination, &said("a.com", false)), SniVerdict::Pass);
}
