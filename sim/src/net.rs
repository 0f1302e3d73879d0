//! Links between sites, and between a site and the log: latency, loss, delay, duplicates, cuts in one or both ways.

use std::collections::BTreeMap;

use refrain_core::rng::Rng;

use crate::dice::Dice;

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The log's brokers.
    Log,
    /// A machine.
    Host(usize),
}

/// What happens to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It never arrives.
    Lost,
    /// It arrives after so many microseconds; a second time after so many more.
    Arrives(u64, Option<u64>),
}

/// How bad a link is while a fault lasts; parts in a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Lost.
    pub loss: u32,
    /// Arrives twice.
    pub twice: u32,
    /// Arrives late.
    pub late: u32,
    /// By at most this, in microseconds.
    pub late_by: u64,
}

/// All links.
#[derive(Debug)]
pub struct Net {
    rng: Rng,
    /// One way, between a machine and the log, in microseconds.
    latency: Vec<u64>,
    /// Cut directions, with how many faults cut each.
    cuts: BTreeMap<(End, End), u32>,
    weather: BTreeMap<usize, Vec<(usize, Weather)>>,
}

impl Net {
    /// Links of machines with these latencies to the log.
    pub fn new(rng: Rng, latency: Vec<u64>) -> Self {
        Self { rng, latency, cuts: BTreeMap::new(), weather: BTreeMap::new() }
    }

    /// Another machine.
    pub fn add(&mut self, latency: u64) {
        self.latency.push(latency);
    }

    /// Nothing passes from one end to the other any more.
    pub fn cut(&mut self, from: End, to: End) {
        *self.cuts.entry((from, to)).or_insert(0) += 1;
    }

    /// One fault less cuts there.
    pub fn mend(&mut self, from: End, to: End) {
        if let Some(count) = self.cuts.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                self.cuts.remove(&(from, to));
            }
        }
    }

    /// A fault makes a machine's links bad.
    pub fn worsen(&mut self, host: usize, fault: usize, weather: Weather) {
        self.weather.entry(host).or_default().push((fault, weather));
    }

    /// That fault is over.
    pub fn clear(&mut self, fault: usize) {
        for list in self.weather.values_mut() {
            list.retain(|(by, _)| *by != fault);
        }
    }

    /// Whether the way is open.
    pub fn is_open(&self, from: End, to: End) -> bool {
        self.cuts.is_empty() || !self.cuts.contains_key(&(from, to))
    }

    /// Whether nothing is wrong with a machine's links.
    pub fn is_well(&self, host: usize) -> bool {
        let cut = self.cuts.keys().any(|(from, to)| [*from, *to].contains(&End::Host(host)));
        !cut && self.weather.get(&host).is_none_or(Vec::is_empty)
    }

    /// Sends a message.
    pub fn send(&mut self, from: End, to: End) -> Passage {
        let ends = [from, to].into_iter().filter_map(|end| match end {
            End::Host(host) => Some(host),
            End::Log => None,
        });
        let mut base = 0;
        let mut weather = Weather::default();
        for host in ends {
            base += self.latency[host];
            for (_, worse) in self.weather.get(&host).into_iter().flatten() {
                weather.loss = weather.loss.max(worse.loss);
                weather.twice = weather.twice.max(worse.twice);
                weather.late = weather.late.max(worse.late);
                weather.late_by = weather.late_by.max(worse.late_by);
            }
        }
        let mut wait = base + self.rng.below(base / 2 + 1);
        let hit = |rng: &mut Rng, rate: u32| rate > 0 && rng.below(1000) < u64::from(rate);
        let lost = hit(&mut self.rng, weather.loss);
        if hit(&mut self.rng, weather.late) {
            wait += self.rng.below(weather.late_by + 1);
        }
        let again = hit(&mut self.rng, weather.twice).then(|| self.rng.range(1, 2_000_000));
        if lost || !self.is_open(from, to) { Passage::Lost } else { Passage::Arrives(wait, again) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_one_way_cut_stops_one_way_only() {
        let mut net = Net::new(Rng::new(1), vec![1000]);
        net.cut(End::Host(0), End::Log);
        assert_eq!(net.send(End::Host(0), End::Log), Passage::Lost);
        assert!(matches!(net.send(End::Log, End::Host(0)), Passage::Arrives(..)));
        net.mend(End::Host(0), End::Log);
        assert!(matches!(net.send(End::Host(0), End::Log), Passage::Arrives(..)));
    }
}
