//! Wall-clock time as text, formatted once per second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Per-worker cache of the current second.
#[derive(Default)]
pub struct TimestampCache(RefCell<CachedSecond>);

#[derive(Default)]
struct CachedSecond {
    second: u64,
    rfc3339: String,
    http: String,
    common: String,
}

impl TimestampCache {
    /// Appends e.g. `2026-11-23T03:02:32.123Z`.
    pub fn write_rfc3339(&self, out: &mut Vec<u8>) {
        let now = now();
        self.with(now.0, |cached| out.extend_from_slice(cached.rfc3339.as_bytes()));
        let millis = now.1;
        out.push(b'.');
        out.extend([100, 10, 1].map(|unit| b"0123456789"[(millis / unit % 10) as usize]));
        out.push(b'Z');
    }

    /// Appends e.g. `Mon, 23 Nov 2026 03:02:32 GMT` (RFC 9110 section 5.6.7).
    pub fn write_http(&self, out: &mut Vec<u8>) {
        self.with(now().0, |cached| out.extend_from_slice(cached.http.as_bytes()));
    }

    /// Appends e.g. `23/Nov/2026:03:02:32 +0000`, the format of web server logs.
    pub fn write_common(&self, out: &mut Vec<u8>) {
        self.with(now().0, |cached| out.extend_from_slice(cached.common.as_bytes()));
    }

    fn with(&self, second: u64, use_it: impl FnOnce(&CachedSecond)) {
        let mut cached = self.0.borrow_mut();
        if cached.second != second || cached.http.is_empty() {
            let time = i64::try_from(second).ok().and_then(|s| Timestamp::from_second(s).ok());
            let time = time.unwrap_or(Timestamp::UNIX_EPOCH);
            cached.second = second;
            cached.rfc3339 = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            cached.http = time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            cached.common = time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
        }
        use_it(&cached);
    }
}

/// Seconds since 1970, and milliseconds of the second. A clock before 1970 reads as 1970.
fn now() -> (u64, u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_both_forms() {
        let stamp = TimestampCache::default();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        stamp.write_rfc3339(&mut a);
        stamp.write_http(&mut b);
        let (a, b) = (String::from_utf8(a).unwrap(), String::from_utf8(b).unwrap());
        assert!(a.parse::<Timestamp>().is_ok(), "{a}");
        assert!(b.len() == 29 && b.ends_with(" GMT"), "{b}");
    }
}
