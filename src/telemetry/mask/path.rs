//! Patterns of paths whose segments are masked, such as `/rooms/*` and `/uploads/**`.

use super::decoded;

/// A pattern of `mask-path`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Pattern(Vec<Segment>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Segment {
    /// This segment, in any case.
    Literal(String),
    /// `*`: any segment; it is masked.
    Any,
    /// `**`: the rest of the path; it is masked.
    Rest,
}

impl Pattern {
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

    /// Whether a path agrees with the pattern, as far as it goes. Empty segments do not count: many
    /// servers merge them.
    fn fits(&self, path: &[u8]) -> bool {
        let segments = path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty());
        self.0.iter().zip(segments).all(|(pattern, segment)| match pattern {
            Segment::Literal(literal) => {
                // `/rooms;v=1/7` is `/rooms/7` to servers that know path parameters.
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

/// The segments of a path, each with whether a slash stands before it; `None` for one that is masked.
pub(super) fn masked<'a>(
    path: &'a [u8],
    patterns: &'a [Pattern],
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
