//! What is to happen, in the order (time, tie-break from the seed, sequence): events of one moment come in any order,
//! the same one for the same seed.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use refrain_core::rng::Rng;

/// Things to happen at points of virtual time, in microseconds.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Slot<E>>>,
    ties: Rng,
    sequence: u64,
    now: u64,
}

#[derive(Debug)]
struct Slot<E> {
    at: u64,
    tie: u64,
    sequence: u64,
    event: E,
}

impl<E> Queue<E> {
    /// An empty one at time 0.
    pub fn new(ties: Rng) -> Self {
        Self { heap: BinaryHeap::new(), ties, sequence: 0, now: 0 }
    }

    /// The time of the last event taken.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// `event` happens at `at`, or now if that is over.
    pub fn at(&mut self, at: u64, event: E) {
        self.sequence += 1;
        let slot = Slot { at: at.max(self.now), tie: self.ties.bits(), sequence: self.sequence, event };
        self.heap.push(Reverse(slot));
    }

    /// `event` happens after `wait` microseconds.
    pub fn after(&mut self, wait: u64, event: E) {
        self.at(self.now + wait, event);
    }

    /// The next event; time moves to it.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(slot) = self.heap.pop()?;
        self.now = slot.at;
        Some(slot.event)
    }
}

impl<E> Slot<E> {
    fn key(&self) -> (u64, u64, u64) {
        (self.at, self.tie, self.sequence)
    }
}

impl<E> PartialEq for Slot<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Slot<E> {}

impl<E> PartialOrd for Slot<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Slot<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(seed: u128) -> Vec<u32> {
        let mut queue = Queue::new(Rng::new(seed));
        for event in 0..8 {
            queue.at(5, event);
        }
        queue.at(3, 100);
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn earlier_comes_first_and_ties_are_broken_by_the_seed() {
        assert_eq!(order(1)[0], 100);
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn nothing_happens_in_the_past() {
        let mut queue = Queue::new(Rng::new(1));
        queue.at(10, 'a');
        queue.pop();
        queue.at(2, 'b');
        assert_eq!((queue.pop(), queue.now()), (Some('b'), 10));
    }
}
