//! Parses the single file of a `multipart/form-data` upload (RFC 7578). Written here because multer
//! brings six crates, among them all text encodings of the web, for the one part that is read.

use std::ops::Range;

use memchr::memmem;

/// The first part that is a file.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct FilePart {
    pub(crate) name: String,
    pub(crate) media_type: Option<String>,
    /// Range of the content in the body.
    pub(crate) content: Range<usize>,
}

/// The boundary named in a `Content-Type`, if that is `multipart/form-data`.
pub(crate) fn boundary(content_type: &str) -> Option<&str> {
    let (media_type, parameters) = content_type.split_once(';')?;
    if !media_type.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut parameters = parameters.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))?;
    let value = value.trim().trim_matches('"');
    (1..=70).contains(&value.len()).then_some(value)
}

/// Finds the first part with a file name.
pub(crate) fn first_file(body: &[u8], boundary: &str) -> Option<FilePart> {
    let delimiter = format!("\r\n--{boundary}");
    // The first delimiter has no line break of its own before it.
    let mut start = boundary.len() + 2;
    if !body.starts_with(&delimiter.as_bytes()[2..]) {
        start = memmem::find(body, delimiter.as_bytes())? + delimiter.len();
    }
    loop {
        let rest = body.get(start..)?;
        let head_length = memmem::find(rest, b"\r\n\r\n")?;
        let content = start + head_length + 4;
        let length = memmem::find(body.get(content..)?, delimiter.as_bytes())?;
        let head = String::from_utf8_lossy(rest.get(..head_length)?);
        if let Some((name, media_type)) = file_named(&head) {
            return Some(FilePart { name, media_type, content: content..content + length });
        }
        start = content + length + delimiter.len();
    }
}

fn file_named(head: &str) -> Option<(String, Option<String>)> {
    let field = |wanted: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map(|(_, v)| v.trim())
    };
    // A quote inside the name arrives as %22 (the HTML standard), so the next quote ends it.
    let (_, name) = field("content-disposition")?.split_once("filename=\"")?;
    let (name, _) = name.split_once('"')?;
    (!name.is_empty()).then(|| (name.to_owned(), field("content-type").map(ToOwned::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "--b\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n\
        --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a b.txt\"\r\n\
        Content-Type: text/plain\r\n\r\nfirst\r\n--not b\r\n--b--\r\n";

    #[test]
    fn the_file_is_found_among_the_parts() {
        let part = first_file(BODY.as_bytes(), "b").unwrap();
        assert_eq!(part.name, "a b.txt");
        assert_eq!(part.media_type.as_deref(), Some("text/plain"));
        assert_eq!(&BODY[part.content], "first\r\n--not b");
    }

    #[test]
    fn a_broken_body_has_no_file() {
        for end in [0, 3, 40, 60, 150, BODY.len() - 8] {
            assert_eq!(first_file(&BODY.as_bytes()[..end], "b"), None, "{end}");
        }
        assert_eq!(first_file(BODY.as_bytes(), "other"), None);
    }

    #[test]
    fn reads_the_boundary() {
        assert_eq!(boundary("multipart/form-data; boundary=----x1"), Some("----x1"));
        assert_eq!(boundary("Multipart/Form-Data; charset=utf-8; Boundary=\"q\""), Some("q"));
        assert_eq!(boundary("multipart/mixed; boundary=x"), None);
        assert_eq!(boundary("multipart/form-data; boundary="), None);
        assert_eq!(boundary("text/plain"), None);
    }
}
