//! Numbers, their table, and what they are beside the aims.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::arms::Pushed;

const NAMES: [&str; 3] = ["plain git push", "post-receive to two mirrors", "refrain, three sites"];

/// All pushes of a run, by way.
#[derive(Default)]
pub struct Figures {
    ack: [Vec<Duration>; 3],
    visible: [Vec<Duration>; 3],
    cpu: [Vec<Duration>; 3],
    /// One durable append each round.
    pub fsync: Vec<Duration>,
}

impl Figures {
    pub fn add(&mut self, arm: usize, push: Pushed) {
        self.ack[arm].push(push.ack);
        self.cpu[arm].push(push.cpu);
        self.visible[arm].extend(push.visible);
    }

    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["", "ack p50 ms", "ack p95 ms", "CPU ms a push", "visible p50 ms", "visible p95 ms"]);
        for (arm, name) in NAMES.iter().enumerate() {
            let visible = |part| quantile(&self.visible[arm], part).map_or_else(String::new, ms);
            let ack = |part| quantile(&self.ack[arm], part).map_or_else(String::new, ms);
            table.add_row([(*name).into(), ack(50), ack(95), ms(mean(&self.cpu[arm])), visible(50), visible(95)]);
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table
    }

    /// Ratios of medians.
    fn ratios(&self) -> [Option<f64>; 3] {
        let p50 = |arm: usize| quantile(&self.ack[arm], 50).map(|it| it.as_secs_f64());
        let fsync = quantile(&self.fsync, 50).map_or(0.0, |it| it.as_secs_f64());
        let (Some(plain), Some(fan), Some(refrain)) = (p50(0), p50(1), p50(2)) else { return [None; 3] };
        [Some(refrain / plain), Some((refrain - fsync) / plain), Some(refrain / fan)]
    }

    pub fn summary(&self) -> String {
        let word = |ratio: Option<f64>| ratio.map_or_else(|| "?".into(), |ratio| format!("{ratio:.2}"));
        let [plain, less_fsync, fan] = self.ratios().map(word);
        let fsync = quantile(&self.fsync, 50).map_or_else(|| "?".into(), ms);
        format!(
            "refrain's acknowledgement is {plain} x plain ({less_fsync} without one fsync of {fsync} ms; aim 1.2), \
             {fan} x the fan-out (aim 0.7)"
        )
    }

    pub fn json(&self, refs: usize, pushes: usize) -> Value {
        let arm = |arm: usize| {
            let part = |list: &[Duration], part| quantile(list, part).map(millis);
            json!({
                "name": NAMES[arm],
                "ack_ms": {"p50": part(&self.ack[arm], 50), "p95": part(&self.ack[arm], 95)},
                "cpu_ms": millis(mean(&self.cpu[arm])),
                "visible_ms": {"p50": part(&self.visible[arm], 50), "p95": part(&self.visible[arm], 95)},
            })
        };
        let [plain, less_fsync, fan] = self.ratios();
        json!({
            "refs": refs,
            "pushes": pushes,
            "ways": [arm(0), arm(1), arm(2)],
            "fsync_ms": quantile(&self.fsync, 50).map(millis),
            "ack_to_plain": plain,
            "ack_to_plain_without_fsync": less_fsync,
            "ack_to_fan_out": fan,
        })
    }
}

/// Nearest rank.
fn quantile(list: &[Duration], part: usize) -> Option<Duration> {
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * part).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

fn mean(list: &[Duration]) -> Duration {
    list.iter().sum::<Duration>() / u32::try_from(list.len().max(1)).unwrap_or(u32::MAX)
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}
