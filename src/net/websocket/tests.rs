use proptest::prelude::*;

use super::*;

/// Builds one frame with this first byte and payload length.
fn frame(sender: FrameSender, first: u8, length: usize) -> Vec<u8> {
    let mask = if sender == FrameSender::Client { MASKED } else { 0 };
    let mut frame = vec![first];
    match length {
        0..=125 => frame.push(mask | u8::try_from(length).unwrap()),
        126..=65535 => {
            frame.push(mask | 0x7e);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        _ => {
            frame.push(mask | 0x7f);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if mask != 0 {
        frame.extend([1, 2, 3, 4]);
    }
    // Payload bytes that look like frame headers.
    frame.extend((0..length).map(|i| [0x88, 0x02, 0xff, 0x7f][i % 4]));
    frame
}

/// All positions in `bytes` between two frames, including the start.
fn boundaries(sender: FrameSender, bytes: &[u8]) -> Vec<usize> {
    let mut frames = FrameTracker::new(sender);
    let mut found = vec![0];
    for (index, byte) in bytes.iter().enumerate() {
        frames.pass(&[*byte]);
        if frames.is_between() {
            found.push(index + 1);
        }
    }
    found
}

#[test]
fn the_end_of_frames_of_every_length_and_kind_is_found() {
    for sender in [FrameSender::Client, FrameSender::Server] {
        for first in [0x81, 0x82, 0x01, 0x00, 0x80, 0xc1, 0x89, 0x8a] {
            for length in [0, 1, 125, 126, 127, 65535, 65536, 70000] {
                if first & 0x0f >= CLOSE && length > 125 {
                    continue;
                }
                let one = frame(sender, first, length);
                let two = [one.clone(), one.clone()].concat();
                let found = boundaries(sender, &two);
                assert_eq!(found, [0, one.len(), two.len()], "{sender:?} {first:x} {length}");
                let mut frames = FrameTracker::new(sender);
                frames.pass(&two);
                assert!(frames.is_between() && !frames.is_closed());
            }
        }
    }
}

#[test]
fn a_length_in_more_bytes_than_it_needs_is_a_length() {
    let long = [0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 9, 0x82, 126, 0, 0];
    assert_eq!(boundaries(FrameSender::Server, &long), [0, 11, 15]);
}

#[test]
fn a_frame_may_have_the_maximum_length() {
    let mut frames = FrameTracker::new(FrameSender::Client);
    frames.pass(&[0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4, 5]);
    assert!(!frames.is_between() && !frames.is_lost());
    assert_eq!(frames.left, (1 << 63) - 1 - 1);
}

#[test]
fn a_close_frame_is_reported_once_it_has_passed() {
    for sender in [FrameSender::Client, FrameSender::Server] {
        let close = CloseFrame { code: 1001, word: "draining" }.frame(sender);
        let (last, most) = close.split_last().unwrap();
        let mut frames = FrameTracker::new(sender);
        frames.pass(most);
        assert!(!frames.is_closed() && !frames.is_between());
        frames.pass(&[*last]);
        assert!(frames.is_closed() && frames.is_between());
    }
    // A Close frame without a body (section 5.5.1 makes it optional).
    let mut frames = FrameTracker::new(FrameSender::Server);
    frames.pass(&[0x88, 0]);
    assert!(frames.is_closed());
}

#[test]
fn invalid_frames_are_detected_for_good() {
    let server: &[&[u8]] = &[
        b"hello",
        &[0x83, 0],                                 // no such opcode
        &[0x8b, 0],                                 // no such control frame
        &[0x08, 0],                                 // half a Close
        &[0xc9, 0],                                 // a Ping that is compressed
        &[0x89, 126, 0, 126],                       // a Ping that is too long
        &[0x81, 0x85, 0, 0, 0, 0],                  // masked
        &[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 0], // longer than lengths go
    ];
    for bytes in server {
        let mut frames = FrameTracker::new(FrameSender::Server);
        frames.pass(bytes);
        assert!(frames.is_lost(), "{bytes:x?}");
        frames.pass(&[0x81, 0]);
        assert!(frames.is_lost() && !frames.is_between());
        assert_eq!(frames.pass_one(&[0x81, 0]), None);
    }
    let mut frames = FrameTracker::new(FrameSender::Client);
    frames.pass(&[0x81, 0x05]); // not masked
    assert!(frames.is_lost());
}

#[test]
fn close_frames_are_masked_by_clients_only() {
    let close = CloseFrame { code: 1008, word: "policy" };
    assert_eq!(close.frame(FrameSender::Server), b"\x88\x08\x03\xf0policy");
    let masked = close.frame(FrameSender::Client);
    assert_eq!(masked[..2], [0x88, 0x88]);
    let clear: Vec<u8> =
        masked[6..].iter().zip(masked[2..6].iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    assert_eq!(clear, b"\x03\xf0policy");
}

fn any_sender() -> impl Strategy<Value = FrameSender> {
    prop_oneof![Just(FrameSender::Client), Just(FrameSender::Server)]
}

fn any_length() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0_usize..140,
        1 => 65_500_usize..65_600,
        1 => Just(125_usize),
        1 => Just(126_usize),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Frame boundaries do not depend on how the bytes are split.
    #[test]
    fn frame_boundaries_do_not_depend_on_how_bytes_are_split(
        sender in any_sender(),
        lengths in proptest::collection::vec(any_length(), 1..6),
        cuts in proptest::collection::vec(1_usize..5000, 1..40),
    ) {
        let all: Vec<Vec<u8>> =
            lengths.iter().map(|length| frame(sender, 0x82, *length)).collect();
        let mut ends = vec![0];
        for one in &all {
            ends.push(ends.last().unwrap() + one.len());
        }
        let bytes = all.concat();
        let mut frames = FrameTracker::new(sender);
        let (mut at, mut cut) = (0, cuts.iter().cycle());
        while at < bytes.len() {
            let next = (at + cut.next().unwrap()).min(bytes.len());
            let mut finishing = frames;
            frames.pass(&bytes[at..next]);
            prop_assert_eq!(frames.is_between(), ends.contains(&next));
            // The end of the current frame is the first boundary from there on.
            let end = *ends.iter().find(|end| **end >= at).unwrap();
            let found = finishing.pass_one(&bytes[at..next]);
            prop_assert_eq!(found, (end <= next).then(|| end - at));
            at = next;
        }
        prop_assert!(frames.is_between() && !frames.is_lost());
    }

    /// Arbitrary bytes never panic, no byte is consumed twice, and splitting makes no difference.
    #[test]
    fn random_bytes_never_panic_the_tracker(
        sender in any_sender(),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        cuts in proptest::collection::vec(1_usize..30, 1..20),
    ) {
        let mut whole = FrameTracker::new(sender);
        whole.pass(&bytes);
        let mut pieces = FrameTracker::new(sender);
        let (mut rest, mut cut) = (&bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*cut.next().unwrap()));
            pieces.pass(piece);
            rest = after;
        }
        prop_assert_eq!(pieces, whole);
    }
}
