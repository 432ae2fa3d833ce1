//! Syntax of HTTP/1.1 heads, line by line (RFC 9112 sections 2 to 5).

/// A head that is syntactically valid.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Head {
    pub(crate) start: StartLine,
    /// Names and values without surrounding whitespace, in order.
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Position after the empty line.
    pub(crate) end: usize,
}

/// The first line.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum StartLine {
    Request { method: Vec<u8>, target: Vec<u8>, version: Vec<u8> },
    Status { version: Vec<u8>, code: u16, reason: Vec<u8> },
}

/// The reason why there is no head.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum SyntaxError {
    /// More bytes could make it valid.
    Incomplete,
    /// A line ends in LF without CR.
    BareLf,
    /// The first line is not of this form.
    StartLine,
    /// The version does not have the form `HTTP/DIGIT.DIGIT`.
    VersionForm,
    /// A field line is not of the form `name: value`.
    FieldLine,
}

/// Lines up to the empty line, without their line ends, and the position after it.
fn lines(bytes: &[u8]) -> Result<(Vec<&[u8]>, usize), SyntaxError> {
    let (mut lines, mut start) = (Vec::new(), 0);
    for (at, byte) in bytes.iter().enumerate() {
        if *byte != b'\n' {
            continue;
        }
        let Some(line) = bytes[start..at].strip_suffix(b"\r") else {
            return Err(SyntaxError::BareLf);
        };
        start = at + 1;
        if line.is_empty() {
            return Ok((lines, start));
        }
        lines.push(line);
    }
    Err(SyntaxError::Incomplete)
}

/// Parses a request head.
pub(crate) fn request(bytes: &[u8]) -> Result<Head, SyntaxError> {
    let (lines, end) = lines(bytes)?;
    let (first, rest) = lines.split_first().ok_or(SyntaxError::StartLine)?;
    let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return Err(SyntaxError::StartLine) };
    // RFC 9112 section 3.2: no whitespace. Controls and DEL are in no form of a target.
    if !is_token(method) || target.is_empty() || target.iter().any(u8::is_ascii_control) {
        return Err(SyntaxError::StartLine);
    }
    let start = StartLine::Request {
        method: method.to_vec(),
        target: target.to_vec(),
        version: self::version(version)?,
    };
    Ok(Head { start, fields: fields(rest)?, end })
}

/// Parses a response head.
pub(crate) fn response(bytes: &[u8]) -> Result<Head, SyntaxError> {
    let (lines, end) = lines(bytes)?;
    let (first, rest) = lines.split_first().ok_or(SyntaxError::StartLine)?;
    let mut words = first.splitn(3, |byte| *byte == b' ');
    let version = version(words.next().unwrap_or_default())?;
    let code = words.next().unwrap_or_default();
    // The space after the code is required (section 4), and many servers omit it.
    let reason = words.next().unwrap_or_default();
    if code.len() != 3 || !code.iter().all(u8::is_ascii_digit) || !is_text(reason) {
        return Err(SyntaxError::StartLine);
    }
    let code = code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    let start = StartLine::Status { version, code, reason: reason.to_vec() };
    Ok(Head { start, fields: fields(rest)?, end })
}

fn version(word: &[u8]) -> Result<Vec<u8>, SyntaxError> {
    match word {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Ok(word.to_vec())
        }
        _ => Err(SyntaxError::VersionForm),
    }
}

/// Parses field lines (section 5). A folded line begins with whitespace, which is not a name.
pub(crate) fn fields(lines: &[&[u8]]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, SyntaxError> {
    let field = |line: &&[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], trimmed(&line[colon + 1..]));
        (is_token(name) && is_text(value)).then(|| (name.to_vec(), value.to_vec()))
    };
    lines.iter().map(field).collect::<Option<_>>().ok_or(SyntaxError::FieldLine)
}

/// Without spaces and tabs on both sides.
pub(crate) fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// A token (RFC 9110 section 5.6.2).
pub(crate) fn is_token(text: &[u8]) -> bool {
    let known = |byte: &u8| {
        matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')
            || "!#$%&'*+-.^_`|~".as_bytes().contains(byte)
    };
    !text.is_empty() && text.iter().all(known)
}

/// Characters of a field value or reason phrase: tab, space, visible, or beyond ASCII.
fn is_text(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
}
