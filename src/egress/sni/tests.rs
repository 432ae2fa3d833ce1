use super::*;

#[test]
fn the_name_is_compared_with_what_was_asked_for() {
    let hello =
        |sni: Option<&str>| Progress::Hello(Hello { sni: sni.map(str::to_owned), ech: false });
    let lenient = Sni { mismatch: Act::Log, missing: Act::Allow, not_tls: Act::Log };
    let refused = Judged::Refused;
    let cases = [
        ("a.com:443", hello(Some("a.com")), Judged::Pass, Judged::Pass),
        ("A.com.:443", hello(Some("a.com")), Judged::Pass, Judged::Pass),
        (
            "a.com:443",
            hello(Some("b.com")),
            refused(Reason::SniMismatch),
            Judged::Logged(Reason::SniMismatch),
        ),
        (
            "a.com:443",
            hello(Some("x.a.com")),
            refused(Reason::SniMismatch),
            Judged::Logged(Reason::SniMismatch),
        ),
        ("a.com:443", hello(None), refused(Reason::SniMissing), Judged::Pass),
        ("a.com:443", Progress::NotTls, refused(Reason::NotTls), Judged::Logged(Reason::NotTls)),
        (
            "a.com:443",
            Progress::Malformed,
            refused(Reason::BadHello),
            Judged::Logged(Reason::BadHello),
        ),
        (
            "a.com:443",
            Progress::TooLarge,
            refused(Reason::BadHello),
            Judged::Logged(Reason::BadHello),
        ),
        (
            "a.com:443",
            Progress::NeedMore,
            refused(Reason::BadHello),
            Judged::Logged(Reason::BadHello),
        ),
        ("8.8.8.8:443", hello(None), Judged::Pass, Judged::Pass),
        ("8.8.8.8:443", hello(Some("8.8.8.8")), Judged::Pass, Judged::Pass),
        (
            "8.8.8.8:443",
            hello(Some("a.com")),
            refused(Reason::SniMismatch),
            Judged::Logged(Reason::SniMismatch),
        ),
    ];
    for (asked, said, strict, other) in cases {
        let destination = Destination::parse(asked.as_bytes(), None).unwrap();
        assert_eq!(judge(Sni::STRICT, &destination, &said), strict, "{asked} {said:?}");
        assert_eq!(judge(lenient, &destination, &said), other, "{asked} {said:?}");
        assert_eq!(judge(Sni::OFF, &destination, &said), Judged::Pass, "{asked} {said:?}");
    }
}
