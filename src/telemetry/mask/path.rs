//! Path patterns for masking, such as `/rooms/*` and `/uploads/**`.

use super::decoded;

/// A pattern of `mask-path`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct MaskPattern(Vec<Segment>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Segment {
    /// This segment, compared without case.
    Literal(String),
    /// `*`: any segment; it is masked.
    Any,
    /// `**`: the rest of the path; it is masked.
    Rest,
}

impl MaskPattern {
    pub(super) fn new(text: &str) -> Self {
        let segments = text.split('/').filter(|segment| !segment.is_empty());
        Self(
            segments
                .map(|segment| match segment {
                    "*" => Segment::Any,
                    "**" => Segment::Rest,
                    literal => Segment::Literal(literal.to_owned()),
                })
                .collect(),
        )
    }

    /// Returns `true` if a path matches the pattern or its beginning. Empty segments are skipped,
    /// because many servers merge them.
    fn fits(&self, path: &[u8]) -> bool {
        let segments = path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty());
        self.0.iter().zip(segments).all(|(pattern, segment)| match pattern {
            Segment::Literal(literal) => {
                // Servers that support path parameters read `/rooms;v=1/7` as `/rooms/7`.
                let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
                decoded(name).eq_ignore_ascii_case(literal.as_bytes())
            }
            Segment::Any | Segment::Rest => true,
        })
    }

    fn masks(&self, index: usize) -> bool {
        match self.0.get(index) {
            Some(Segment::Any | Segment::Rest) => true,
            Some(Segment::Literal(_)) => false,
            None => self.0.last() == Some(&Segment::Rest),
        }
    }
}

/// Segments of a path, each with a flag for a preceding slash; `None` for a masked segment.
pub(super) fn masked<'a>(
    path: &'a [u8],
    patterns: &'a [MaskPattern],
) -> impl Iterator<Item = (bool, Option<&'a [u8]>)> {
    let fitting: Vec<_> = patterns.iter().filter(|pattern| pattern.fits(path)).collect();
    let mut count = 0;
    path.split(|byte| *byte == b'/').enumerate().map(move |(position, segment)| {
        let index = count;
        count += usize::from(!segment.is_empty());
        let masked = !segment.is_empty() && fitting.iter().any(|pattern| pattern.masks(index));
        (position > 0, (!masked).then_some(segment))
    })
}
