use super::*;

/// Feeds `input` in pieces of `size` bytes. Returns the data and the position at which the body
/// ended.
fn decode(
    framing: Framing,
    input: &[u8],
    size: usize,
) -> Result<(Vec<u8>, Option<usize>), BodyError> {
    let mut decoder = BodyDecoder::new(framing);
    let (mut data, mut base) = (Vec::new(), 0);
    for piece in input.chunks(size) {
        let mut at = 0;
        loop {
            match decoder.decode(piece, &mut at)? {
                DecodeStep::Data(range) => data.extend_from_slice(&piece[range]),
                DecodeStep::More => break,
                DecodeStep::End => return Ok((data, Some(base + at))),
            }
        }
        base += piece.len();
    }
    Ok((data, decoder.is_done().then_some(base)))
}

#[test]
fn reads_chunks_however_they_are_cut() {
    let input = b"4\r\nWiki\r\n5;name=\"value\"\r\npedia\r\n00E\r\n in\r\n\r\nchunks.\r\n0\r\nX-Sum: 1\r\n\r\nGET /";
    for size in 1..input.len() {
        let (data, end) = decode(Framing::Chunked, input, size).unwrap();
        assert_eq!(data, b"Wikipedia in\r\n\r\nchunks.");
        assert_eq!(end, Some(input.len() - 5), "pieces of {size}");
    }
}

#[test]
fn refuses_every_bad_chunk() {
    for input in [
        &b"\r\n"[..],
        b";a\r\n",
        b"4 \r\nWiki\r\n",
        b" 4\r\nWiki\r\n",
        b"0x4\r\nWiki\r\n",
        b"+4\r\nWiki\r\n",
        b"-1\r\n",
        b"4\nWiki\r\n",
        b"4\rWiki",
        b"4\r\nWiki\n0\r\n\r\n",
        b"4\r\nWikiX",
        b"4\r\nWiki\r\r",
        b"4;a\nb\r\nWiki",
        b"4;\x00\r\n",
        b"4;\x7f\r\n",
        b"10000000000000000\r\n",
        b"ffffffffffffffff\r\n",
        b"g\r\n",
        b"0\r\n\n",
        b"0\r\nA: b\n\r\n",
    ] {
        assert!(
            decode(Framing::Chunked, input, 7).is_err(),
            "{:?}",
            String::from_utf8_lossy(input)
        );
    }
    let endless = [&b"4;"[..], &vec![b'a'; 9000]].concat();
    assert_eq!(decode(Framing::Chunked, &endless, 100), Err(BodyError::Chunk));
    let endless = [&b"0\r\nA: "[..], &vec![b'a'; 9000]].concat();
    assert_eq!(decode(Framing::Chunked, &endless, 100), Err(BodyError::Trailer));
}

#[test]
fn counts_lengths_and_leaves_the_next_message() {
    assert_eq!(decode(Framing::Length(3), b"abcGET", 2).unwrap(), (b"abc".to_vec(), Some(3)));
    assert_eq!(decode(Framing::Length(3), b"ab", 9).unwrap(), (b"ab".to_vec(), None));
    assert_eq!(decode(Framing::None, b"GET", 9).unwrap(), (vec![], Some(0)));
    assert_eq!(decode(Framing::Close, b"abc", 9).unwrap(), (b"abc".to_vec(), None));
}

#[test]
fn passes_on_harmless_trailers_only() {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let input = b"0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: evil\r\nX-Forwarded-For: 1\r\nAuthorization: x\r\n\r\n";
    assert_eq!(decoder.decode(input, &mut 0), Ok(DecodeStep::End));
    let text = decoder.trailers().unwrap();
    assert_eq!(text, b"X-Sum: 1\r\n");
    assert_eq!(trailer_fields(&text).unwrap().named("x-sum"), Some(&b"1"[..]));

    let mut decoder = BodyDecoder::new(Framing::Chunked);
    decoder.decode(b"0\r\nnot a field\r\n\r\n", &mut 0).unwrap();
    assert_eq!(decoder.trailers(), Err(BodyError::Trailer));
}

proptest::proptest! {
    #[test]
    fn what_is_chunked_comes_back(
        chunks in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 1..50), 0..8),
        size in 1_usize..40,
    ) {
        let mut coded = Vec::new();
        for chunk in &chunks {
            coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            coded.extend_from_slice(chunk);
            coded.extend_from_slice(b"\r\n");
        }
        coded.extend_from_slice(b"0\r\n\r\n");
        let end = coded.len();
        coded.extend_from_slice(b"rest");
        let (data, at) = decode(Framing::Chunked, &coded, size).unwrap();
        proptest::prop_assert_eq!(data, chunks.concat());
        proptest::prop_assert_eq!(at, Some(end));
    }

    #[test]
    fn never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), size in 1_usize..40) {
        let _ = decode(Framing::Chunked, &bytes, size);
    }
}
