use super::*;

/// The example of the SHA-crypt specification, for the password `Hello world!`.
const SHA_512: &str = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";
const SHA_256: &str = "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5";

fn bcrypt(password: &str) -> String {
    bcrypt::hash_with_result(password, 4).unwrap().format_for_version(bcrypt::Version::TwoY)
}

fn users(lines: &[String]) -> Users {
    Users::parse(&lines.join("\n")).unwrap()
}

fn said(line: &str) -> String {
    let bad = Users::parse(line).unwrap_err();
    format!("{}: {}", bad[0].line, bad[0].error)
}

#[test]
fn hashes_of_htpasswd_and_openssl_are_verified() {
    let users = users(&[
        "# users of the proxy".to_owned(),
        format!("ccm:{}", bcrypt("geheim")),
        String::new(),
        format!("fe:{SHA_512}\r"),
        format!("old:{SHA_256}"),
    ]);
    for (user, password, right) in [
        ("ccm", "geheim", true),
        ("ccm", "Geheim", false),
        ("ccm", "", false),
        ("fe", "Hello world!", true),
        ("fe", "Hello world", false),
        ("old", "Hello world!", true),
        ("nobody", "geheim", false),
        ("CCM", "geheim", false),
        ("", "geheim", false),
    ] {
        assert_eq!(users.verify(user, password.as_bytes()), right, "{user} {password}");
    }
    assert_eq!(users.names().collect::<Vec<_>>(), ["ccm", "fe", "old"]);
    assert!(users.contains("fe") && !users.contains("nobody"));
}

#[test]
fn right_and_wrong_results_are_cached_for_a_while() {
    let users = users(&[format!("ccm:{}", bcrypt("geheim"))]);
    let now = Instant::now();
    assert_eq!(users.known("ccm", b"geheim", now), None);
    assert!(users.verify("ccm", b"geheim") && !users.verify("ccm", b"falsch"));
    assert_eq!(users.known("ccm", b"geheim", now), Some(true));
    assert_eq!(users.known("ccm", b"falsch", now), Some(false));
    assert_eq!(users.known("ccm", b"anders", now), None);
    // The same bytes, split differently between user and password.
    assert_eq!(users.known("ccmg", b"eheim", now), None);
    assert_eq!(users.known("ccm", b"geheim", now + 2 * RIGHT_KEPT), None);
}

#[test]
fn guesses_do_not_evict_users_who_are_logged_in() {
    let users = users(&[format!("ccm:{}", bcrypt("geheim"))]);
    assert!(users.verify("ccm", b"geheim"));
    let now = Instant::now();
    let mut wrong = users.wrong.lock().unwrap();
    for guess in 0..10 * MAX_CACHED {
        wrong.keep(users.tag("ccm", &guess.to_be_bytes()), now + WRONG_KEPT);
    }
    assert!(wrong.young.len() + wrong.old.len() <= MAX_CACHED);
    drop(wrong);
    assert_eq!(users.known("ccm", b"geheim", now), Some(true));
}

#[test]
fn a_right_pair_is_known_for_as_long_as_it_is_used() {
    let users = users(&[format!("ccm:{}", bcrypt("geheim"))]);
    assert!(users.verify("ccm", b"geheim"));
    let start = Instant::now();
    for minutes in 1..60 {
        let now = start + Duration::from_secs(60 * minutes);
        assert_eq!(users.known("ccm", b"geheim", now), Some(true), "after {minutes} min");
    }
    let last = start + Duration::from_secs(60 * 59);
    assert_eq!(users.known("ccm", b"geheim", last + 2 * RIGHT_KEPT), None);
    assert!(!users.verify("ccm", b"falsch"));
    let now = Instant::now();
    for seconds in [20, 40] {
        let then = now + Duration::from_secs(seconds);
        assert_eq!(users.known("ccm", b"falsch", then), Some(false));
    }
    let then = now + Duration::from_secs(80);
    assert_eq!(users.known("ccm", b"falsch", then), None, "a wrong pair is not renewed");
}

#[test]
fn an_unknown_user_is_verified_against_some_hash() {
    let users = users(&[format!("ccm:{}", bcrypt("geheim"))]);
    // Even with the right password of the substituted user.
    assert!(!users.verify("nobody", b"geheim"));
    assert_eq!(users.known("nobody", b"geheim", Instant::now()), Some(false));
}

#[test]
fn a_line_that_cannot_be_used_is_explained() {
    for (line, part) in [
        ("", "0: there is no user in it"),
        ("# nobody", "0: there is no user in it"),
        ("ccm", "1: this is not `user:hash`"),
        (":x", "1: the name of the user is empty"),
        ("ccm:geheim", "no hash at all"),
        ("ccm:", "no hash at all"),
        ("ccm:$apr1$abcdefgh$abcdefghijklmnopqrstuv", "MD5 (apr1)"),
        ("ccm:$1$abcdefgh$abcdefghijklmnopqrstuv", "MD5 (apr1)"),
        ("ccm:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1 without salt"),
        ("ccm:abJnggxhB/yWI", "DES crypt"),
        ("ccm:$argon2id$v=19$m=1,t=1,p=1$a$b", "of an unknown kind"),
        ("ccm:$2y$10$short", "this bcrypt hash is damaged"),
        ("ccm:$6$saltstring$short", "this sha-crypt hash is damaged"),
        ("ccm:$6$rounds=999999999$saltstring$x", "up to 1000000 rounds"),
        ("ccm:$6$$x", "damaged"),
    ] {
        assert!(said(line).contains(part), "{line}: {}", said(line));
    }
    let dear = bcrypt("x").replacen("$04$", "$15$", 1);
    assert!(said(&format!("ccm:{dear}")).contains("cost 15"));
    let twice = format!("a:{SHA_512}\nb:{SHA_512}\na:{SHA_512}");
    assert!(said(&twice).starts_with("3: the user of line 1 is there twice"));
    let long = format!("a:{}{}", SHA_512, "x");
    assert!(said(&long).contains("damaged"));
}

#[test]
fn secrets_are_not_shown() {
    let users = users(&[format!("ccm:{SHA_512}")]);
    let shown = format!("{users:?}");
    assert!(!shown.contains("ccm") && !shown.contains("saltstring"), "{shown}");
    // An invalid line must not be quoted: it may be a password in clear text.
    assert!(!said("ccm:geheim").contains("geheim"));
    // A name must not be quoted: users also write `password:` and `user password`.
    assert!(!said("geheim:ccm").contains("geheim") && !said("geheim").contains("geheim"));
}
