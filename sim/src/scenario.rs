//! Scenario files: TOML that says what a run is about. What it leaves open, the seed draws.

use anyhow::{Context, bail};
use refrain_core::config::Ack;
use refrain_core::names::SiteId;
use refrain_core::placement::Map;
use serde::Deserialize;

use crate::fault::{Kind, Strike};
use crate::invariants;
use crate::swarm::{NAMES, SECOND};

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// The file's name without `.toml`, or `default`.
    #[serde(skip)]
    pub name: String,
    /// How to name it on the command line; empty for the built-in one.
    #[serde(skip)]
    pub path: String,
    /// How many sites.
    pub sites: usize,
    /// Their names, if they matter to the story.
    pub site_names: Vec<String>,
    /// How many of them, the last ones, are in no table of members at first and join while the run goes on.
    pub late: usize,
    /// How many repositories.
    pub repos: usize,
    /// Partitions: from, to.
    pub partitions: (u32, u32),
    /// Which repositories (they are `repo0`, `repo1`, …) go to which of the partitions.
    pub map: Map,
    /// Length of the safety phase in virtual seconds.
    pub seconds: u64,
    /// People who push.
    pub clients: usize,
    /// Mean time between two pushes of one of them.
    pub every_seconds: u64,
    /// Pushes that a run offers at least: where sites or the log are down for long, people come more often after it.
    pub least_pushes: u64,
    /// Fault classes, all on; absent: each on in half of the runs.
    pub faults: Option<Vec<String>>,
    /// Workload features and fault classes that are off.
    pub without: Vec<String>,
    /// Kinds of pushes that come fifty times as often as they would, or at all; and chores, twelve times.
    pub often: Vec<String>,
    /// `log`, `sites:N`, `all`; absent: drawn for each site.
    pub ack: Option<String>,
    /// How many of a hundred repositories show only what every active site has staged.
    pub replicated_percent: u32,
    /// How long a site waits for the others before it shows what is staged, in seconds.
    pub flip_seconds: u64,
    /// Garbage younger than this is never collected, in seconds; a fifth of a run and at most 600 if nothing is said.
    /// Git's two weeks would outlast a run.
    pub prune_seconds: Option<u64>,
    /// Operators change Git settings, too.
    pub git_settings: bool,
    /// Nobody decides: what is appended is accepted.
    pub refdb_none: bool,
    /// How much a site has under way at once is drawn low, so that some hundred pushes meet every limit.
    pub narrow: bool,
    /// Marks that a sweep must have met.
    pub covers: Vec<String>,
    /// From so many runs on; a shorter sweep says nothing about rare ones.
    pub covers_from: u64,
    /// What must come of it, if not a clean run.
    pub expect: Expect,
    /// Faults at fixed times.
    pub fault: Vec<ScriptedFault>,
    /// Pushes at fixed times.
    pub push: Vec<ScriptedPush>,
}

/// What must come of a run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// This invariant is violated: the scenario shows what is lost without something.
    pub violation: Option<String>,
}

/// A fault at a fixed time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedFault {
    /// Seconds.
    pub at: f64,
    /// The class.
    pub kind: String,
    /// Where.
    pub site: String,
    /// Seconds.
    #[serde(default)]
    pub lasts: f64,
    /// Read by the class as it likes.
    #[serde(default)]
    pub dice: u64,
}

/// A push at a fixed time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedPush {
    /// Seconds.
    pub at: f64,
    /// Where.
    pub site: String,
    /// The ref, in the first repository.
    #[serde(rename = "ref")]
    pub name: String,
    /// The commit that the pusher saw there, by the name given below; absent: nothing.
    pub old: Option<String>,
    /// The commit pushed; it is made on top of `old` (or of `on`) when first named. Absent: the ref is deleted.
    pub new: Option<String>,
    /// Its parent, if not `old`.
    pub on: Option<String>,
    /// How the answer must begin; absent: any.
    pub answer: Option<String>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: "default".to_string(),
            path: String::new(),
            sites: 5,
            site_names: Vec::new(),
            late: 0,
            repos: 4,
            partitions: (2, 8),
            map: Map::default(),
            seconds: 3_600,
            clients: 10,
            every_seconds: 56,
            least_pushes: 0,
            faults: None,
            without: Vec::new(),
            often: Vec::new(),
            ack: None,
            replicated_percent: 25,
            flip_seconds: 30,
            prune_seconds: None,
            git_settings: false,
            refdb_none: false,
            narrow: false,
            covers: Vec::new(),
            covers_from: 1,
            expect: Expect::default(),
            fault: Vec::new(),
            push: Vec::new(),
        }
    }
}

/// What fifty runs of the built-in scenario must have met, beside every fault class.
const BUILT_IN_COVERS: &[&str] = &[
    "verdict.accepted",
    "verdict.unchanged",
    "verdict.counted",
    "verdict.void",
    "verdict.stale",
    "verdict.name-conflict",
    "verdict.read-only",
    "verdict.deletes-denied",
    "verdict.non-fast-forward-denied",
    "verdict.head-branch",
    "verdict.atomic",
    "verdict.no-such-repo",
    "void.malformed",
    "void.already-opened",
    "void.not-a-member",
    "void.old-epoch",
    "void.not-in-force",
    "void.old-sequence",
    "void.wrong-partition",
    "void.bad-membership",
    "void.repo-exists",
    "void.no-such-repo",
    "reply.ok",
    "reply.stale",
    "reply.read only",
    "reply.name conflict",
    "reply.undecided",
    "reply.denied",
    "reply.too large",
    "reply.atomic push failed",
    "reply.unavailable",
    "workload.atomic",
    "workload.delete",
    "workload.forced",
    "workload.stale-on-purpose",
    "workload.back-and-forth",
    "workload.repeat-refused",
    "workload.identical-retry",
    "workload.directory-and-file",
    "workload.bad-name",
    "workload.large",
    "workload.split",
    "workload.repo-created",
    "workload.repo-deleted",
    "workload.repo-configured",
    "workload.member",
    "world.append-late",
    "world.append-twice",
    "world.append-after-death",
    "world.foreign-ref",
    "world.put-back",
    "world.exit-75",
    "world.gc-removed",
    "world.fetched",
    "world.missing-here",
    "world.not-written",
    "world.pack-in-chunks",
    "world.pack-from-chunks",
    "world.record-of-shadow",
    "workload.atomic-refused",
];

/// Workload features that a scenario can switch off.
pub const FEATURES: &[&str] = &[
    "atomic",
    "delete",
    "forced",
    "stale",
    "back-and-forth",
    "repeat-refused",
    "identical-retry",
    "directory-and-file",
    "bad-name",
    "large",
    "split",
    "configure",
    "recreate",
    "member",
    "several-refs",
    "rush",
    "atomic-refused",
    "replicated",
    "map",
    "git-settings",
];

impl Scenario {
    /// The built-in one: every fault class, every kind of push, every verdict. It is about what fifty runs always
    /// meet of them.
    pub fn built_in() -> Self {
        let faults =
            Kind::ALL.iter().filter(|kind| kind.keeps_what_is_durable()).map(|kind| format!("fault.{}", kind.name()));
        let others = BUILT_IN_COVERS.iter().map(|mark| (*mark).to_string());
        let often = vec!["atomic-refused".to_string()];
        let covers = faults.chain(others).collect();
        Self { covers, covers_from: 50, often, least_pushes: 400, ..Self::default() }
    }

    /// Reads a file. The error names what is wrong with it.
    pub fn load(path: &str) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let mut scenario = Self::parse(&text).with_context(|| format!("in {path}"))?;
        let stem = std::path::Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        scenario.name = stem.unwrap_or_default();
        scenario.path = path.to_string();
        Ok(scenario)
    }

    /// Reads a scenario's text.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        for name in scenario.faults.iter().flatten().chain(scenario.fault.iter().map(|fault| &fault.kind)) {
            if Kind::parse(name).is_none() {
                bail!("there is no fault class {name:?}; `refrain-sim list faults` names them");
            }
        }
        for name in &scenario.without {
            if !FEATURES.contains(&name.as_str()) && Kind::parse(name).is_none() {
                bail!(
                    "there is no workload feature and no fault class {name:?}; there are {} and what `refrain-sim list \
                     faults` names",
                    FEATURES.join(", ")
                );
            }
        }
        let is_known = |name: &str| crate::workload::is_kind_of_push(name) || crate::swarm::CHORES.contains(&name);
        if let Some(name) = scenario.often.iter().find(|name| !is_known(name)) {
            bail!("there is no kind of push or chore {name:?} that could come often");
        }
        let marks = crate::coverage::marks();
        for name in &scenario.covers {
            if !marks.contains(name) {
                bail!("there is no mark {name:?}; `refrain-sim list covers` names them");
            }
        }
        let count = scenario.site_names.len().max(scenario.sites);
        if scenario.repos == 0 || scenario.partitions.0 == 0 || scenario.partitions.1 < scenario.partitions.0 {
            bail!("at least one repository, one partition, and `partitions = [from, to]`");
        }
        scenario.map.fits(scenario.partitions.0)?;
        if !(1..=9).contains(&count) || scenario.seconds == 0 || scenario.every_seconds == 0 {
            bail!("1 to 9 sites, and times above 0");
        }
        if scenario.late >= count {
            bail!("`late` sites join others: at least one of the {count} is there from the beginning");
        }
        scenario.check_names()?;
        Ok(scenario)
    }

    /// A workload feature is on, or a fault class not off.
    pub fn is_on(&self, feature: &str) -> bool {
        !self.without.iter().any(|off| off == feature)
    }

    /// The sites, by name.
    pub fn names_of_sites(&self) -> Vec<String> {
        match self.site_names.is_empty() {
            true => NAMES[..self.sites.min(NAMES.len())].iter().map(|name| (*name).to_string()).collect(),
            false => self.site_names.clone(),
        }
    }

    /// The acknowledgement level of every site, if the scenario names one; `None` in it: no such level.
    pub fn ack_of_all(&self) -> Option<Option<Ack>> {
        let text = self.ack.as_deref()?;
        let sites = |text: &str| text.strip_prefix("sites:")?.parse().ok().filter(|count| *count > 0).map(Ack::Sites);
        Some(match text {
            "log" => Some(Ack::Log),
            "all" => Some(Ack::All),
            text => sites(text),
        })
    }

    /// Whatever the file names must exist: a slip of the pen would make another story of it.
    fn check_names(&self) -> anyhow::Result<()> {
        let sites = self.names_of_sites();
        if let Some(name) = sites.iter().find(|name| SiteId::parse(name).is_err()) {
            bail!("{name:?} is no name for a site");
        }
        let scripted = self.fault.iter().map(|fault| &fault.site).chain(self.push.iter().map(|push| &push.site));
        if let Some(name) = scripted.into_iter().find(|name| !sites.contains(name)) {
            bail!("there is no site {name:?}; there are {}", sites.join(", "));
        }
        if self.ack_of_all() == Some(None) {
            bail!("there is no ack {:?}; there are log, sites:N and all", self.ack.as_deref().unwrap_or_default());
        }
        if let Some(name) = &self.expect.violation {
            let known: Vec<&str> = invariants::names().into_iter().map(|(known, _)| known).collect();
            if !known.contains(&name.as_str()) {
                bail!("there is no invariant {name:?}; there are {}", known.join(", "));
            }
        }
        Ok(())
    }

    /// Its faults at fixed times.
    pub fn strikes(&self, sites: &[String]) -> Vec<Strike> {
        let strike = |fault: &ScriptedFault| Strike {
            at: micros(fault.at),
            kind: Kind::parse(&fault.kind).expect("checked when it was read"),
            host: sites.iter().position(|site| *site == fault.site).expect("checked when it was read"),
            lasts: micros(fault.lasts),
            dice: fault.dice,
        };
        self.fault.iter().filter(|fault| self.is_on(&fault.kind)).map(strike).collect()
    }
}

/// Seconds with a fraction as whole microseconds.
pub fn micros(seconds: f64) -> u64 {
    (seconds * SECOND as f64).round() as u64
}
