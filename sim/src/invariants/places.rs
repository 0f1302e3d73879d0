//! Places in a ref's history: 0 is "absent, before everything", place *n* is its *n*th accepted value.
//!
//! A value can come back (W0, W1, W0), so a value alone does not say how far a site is; a place does.

use refrain_core::ids::{Offset, Oid};

type Entries<'a> = &'a [(Offset, Option<Oid>)];

/// The value at a place.
fn at(history: Entries<'_>, place: usize) -> Option<Oid> {
    place.checked_sub(1).and_then(|index| history[index].1)
}

/// The first place not before `from` that has this value.
pub(super) fn place_from(history: Entries<'_>, from: usize, value: Option<Oid>) -> Option<usize> {
    (from..=history.len()).find(|place| at(history, *place) == value)
}

/// The place that the record at `offset` made, or else the one that it found.
pub(super) fn place_after(history: Entries<'_>, offset: Offset) -> usize {
    history.partition_point(|(at, _)| *at <= offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_comes_back_has_two_places() {
        let [w0, w1] = [Some(Oid([1; 20])), Some(Oid([2; 20]))];
        let history = [(Offset(3), w0), (Offset(5), w1), (Offset(9), w0)];
        assert_eq!(place_from(&history, 0, None), Some(0));
        assert_eq!(place_from(&history, 0, w0), Some(1));
        assert_eq!(place_from(&history, 2, w0), Some(3));
        assert_eq!(place_from(&history, 3, w1), None);
        assert_eq!([2, 3, 8, 9].map(|offset| place_after(&history, Offset(offset))), [0, 1, 2, 3]);
    }
}
