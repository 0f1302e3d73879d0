//! Walks: which objects are reachable from some tips and not from hidden values.
//!
//! Promises a closed set: whatever is left out is reachable from a hidden value that it names as used. It may hold a
//! little too much (an object that older hidden history has too), never too little, whatever the commits' dates say.
//! The cost is that of what is new, not of how much history or how many refs there are.

use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};

use anyhow::{Result, bail};
use gix::objs::Kind;
use refrain_core::ids::Oid;

use super::objects::{Entry, EntryKind, Objects, parse_commit, parse_tag, parse_tree};

/// Hidden commits read ahead of the new side before the two take turns: without a bound, one new commit dated 1970
/// would make the walk read all of history first.
const HIDDEN_LEAD: u64 = 1_024;
/// Hidden commits read at the end to see whether a root commit was old after all: less than a second on a busy machine
/// (docs/measured.md).
const HIDDEN_TAIL: u64 = 50_000;

/// A consumer's answer to an object.
pub(super) enum Step {
    Go,
    Missing,
    Stop,
}

/// Takes each object once: commits, tags and trees with their bytes, blobs without.
pub(super) type Sink<'a> = dyn FnMut(Oid, Kind, Option<&[u8]>) -> Result<Step> + 'a;

/// How a walk ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Walked {
    All {
        /// Those of the hidden values that reach whatever was left out, in the order in which they were given.
        used: Vec<Oid>,
    },
    Missing(Oid),
    Stopped,
}

#[derive(Default)]
struct Node {
    parents: Vec<Oid>,
    tree: Option<Oid>,
    time: i64,
    /// The hidden value from which it was first reached.
    hidden: Option<Oid>,
    expanded: bool,
}

/// The commit graph as far as it was read, painted from both sides.
struct Painter<'a> {
    objects: &'a Objects,
    nodes: HashMap<Oid, Node>,
    new: BinaryHeap<(i64, Oid)>,
    hidden: BinaryHeap<(i64, Oid)>,
    order: Vec<Oid>,
    new_read: u64,
    hidden_read: u64,
}

impl<'a> Painter<'a> {
    fn new(objects: &'a Objects) -> Self {
        let (nodes, order) = (HashMap::new(), Vec::new());
        Self { objects, nodes, new: BinaryHeap::new(), hidden: BinaryHeap::new(), order, new_read: 0, hidden_read: 0 }
    }

    /// Reads a commit's links into the graph. `false`: it is not here, or is none.
    fn load(&mut self, oid: Oid) -> bool {
        if self.nodes.contains_key(&oid) {
            return true;
        }
        let Some((Kind::Commit, data)) = self.objects.read(&oid) else { return false };
        let Some(commit) = parse_commit(&data) else { return false };
        let node = Node { parents: commit.parents, tree: Some(commit.tree), time: commit.time, ..Node::default() };
        self.nodes.insert(oid, node);
        true
    }

    /// Adds a commit to the new side. `false`: it is missing.
    fn add_new(&mut self, oid: Oid) -> bool {
        let known = self.nodes.contains_key(&oid);
        if !self.load(oid) {
            return false;
        }
        if !known {
            self.new.push((self.nodes[&oid].time, oid));
        }
        true
    }

    /// Paints a commit hidden by a value, and at once everything below it that was read already: so the hidden side
    /// overtakes a new side that ran ahead of it. A hidden commit that is missing ends its line (a shallow repository).
    fn add_hidden(&mut self, oid: Oid, by: Oid) {
        let mut stack = vec![oid];
        while let Some(oid) = stack.pop() {
            if !self.load(oid) {
                continue;
            }
            let node = self.nodes.get_mut(&oid).expect("just loaded");
            if node.hidden.is_some() {
                continue;
            }
            node.hidden = Some(by);
            if node.expanded {
                stack.extend(node.parents.iter().copied());
            } else {
                self.hidden.push((node.time, oid));
            }
        }
    }

    fn expand_hidden(&mut self) {
        let Some((_, oid)) = self.hidden.pop() else { return };
        let node = self.nodes.get_mut(&oid).expect("queued nodes are loaded");
        if std::mem::replace(&mut node.expanded, true) {
            return;
        }
        self.hidden_read += 1;
        let by = node.hidden.expect("only hidden commits are queued there");
        for parent in node.parents.clone() {
            self.add_hidden(parent, by);
        }
    }

    /// Reads one commit of the new side. `Some(oid)`: a parent is missing.
    fn expand_new(&mut self, oid: Oid) -> Option<Oid> {
        let node = self.nodes.get_mut(&oid).expect("queued nodes are loaded");
        node.expanded = true;
        self.new_read += 1;
        self.order.push(oid);
        node.parents.clone().into_iter().find(|parent| !self.add_new(*parent))
    }

    /// Runs until no new commit is unread. With `target`, ends early once the new side has met it.
    fn run(&mut self, target: Option<Oid>) -> Ran {
        while let Some((time, oid)) = self.new.peek().copied() {
            let node = &self.nodes[&oid];
            if node.hidden.is_some() || node.expanded {
                self.new.pop();
                continue;
            }
            let hidden_is_newer = self.hidden.peek().is_some_and(|(t, _)| *t >= time);
            if hidden_is_newer && self.hidden_read <= HIDDEN_LEAD + 2 * self.new_read {
                self.expand_hidden();
                continue;
            }
            self.new.pop();
            if target.is_some_and(|target| self.nodes[&oid].parents.contains(&target)) {
                return Ran::Met;
            }
            if let Some(missing) = self.expand_new(oid) {
                return Ran::Missing(missing);
            }
        }
        Ran::Done
    }

    /// A root commit among the new ones may mean that the new side ran past the fork before the hidden side came
    /// there. Reads on on the hidden side, as long as what it reads is not older than that root.
    fn settle_roots(&mut self) {
        let roots: Vec<Oid> = self.order.iter().filter(|o| self.nodes[*o].parents.is_empty()).copied().collect();
        let until = self.hidden_read + HIDDEN_TAIL;
        while self.hidden_read < until {
            let Some((time, _)) = self.hidden.peek().copied() else { return };
            if !roots.iter().any(|r| self.nodes[r].hidden.is_none() && self.nodes[r].time <= time) {
                return;
            }
            self.expand_hidden();
        }
    }

    /// Commits that were read on the new side and stayed new.
    fn fresh(&self) -> impl Iterator<Item = &Oid> {
        self.order.iter().filter(|oid| self.nodes[*oid].hidden.is_none())
    }

    /// The values that reach the hidden commits at which the new side ends, one for each. What is left out of it is
    /// below those commits: a tree is compared with those of its commit's parents only.
    fn met(&self, tips: &[Oid]) -> HashSet<Oid> {
        let ends = self.fresh().flat_map(|oid| &self.nodes[oid].parents).chain(tips);
        ends.filter_map(|oid| self.nodes.get(oid)?.hidden).collect()
    }

    /// The new commits, parents first.
    fn parents_first(&self) -> Vec<Oid> {
        let fresh: HashSet<Oid> = self.fresh().copied().collect();
        let mut waits: HashMap<Oid, usize> = HashMap::new();
        let mut children: HashMap<Oid, Vec<Oid>> = HashMap::new();
        let mut ready = VecDeque::new();
        for oid in self.order.iter().filter(|o| fresh.contains(*o)) {
            let mut count = 0;
            for parent in self.nodes[oid].parents.iter().filter(|p| fresh.contains(*p)) {
                children.entry(*parent).or_default().push(*oid);
                count += 1;
            }
            waits.insert(*oid, count);
            if count == 0 {
                ready.push_back(*oid);
            }
        }
        let mut sorted = Vec::with_capacity(fresh.len());
        while let Some(oid) = ready.pop_front() {
            sorted.push(oid);
            for child in children.get(&oid).into_iter().flatten() {
                let count = waits.get_mut(child).expect("every new commit is counted");
                *count -= 1;
                if *count == 0 {
                    ready.push_back(*child);
                }
            }
        }
        sorted
    }
}

enum Ran {
    Done,
    Met,
    Missing(Oid),
}

/// Whether `old` is an ancestor of `new`, or the same commit. Exact: every commit of the new side is read that is not
/// an ancestor of `old`. `None`: one of the two, or something between them, is not a commit that is here.
pub(super) fn is_ancestor(objects: &Objects, old: Oid, new: Oid) -> Option<bool> {
    if old == new {
        return Some(true);
    }
    let mut painter = Painter::new(objects);
    if !painter.load(old) {
        return None;
    }
    painter.add_hidden(old, old);
    if !painter.add_new(new) {
        return None;
    }
    match painter.run(Some(old)) {
        Ran::Done => Some(false),
        Ran::Met => Some(true),
        Ran::Missing(_) => None,
    }
}

/// The tips of one side, by kind.
#[derive(Default)]
struct Tips {
    commits: Vec<Oid>,
    trees: Vec<Oid>,
    blobs: Vec<Oid>,
    tags: Vec<Oid>,
}

/// Follows tags to what they point to. `Err`: that object is missing.
fn sort_tip(objects: &Objects, tip: Oid, into: &mut Tips) -> Result<(), Oid> {
    let mut oid = tip;
    loop {
        let Some((kind, _)) = objects.header(&oid) else { return Err(oid) };
        match kind {
            Kind::Commit => into.commits.push(oid),
            Kind::Tree => into.trees.push(oid),
            Kind::Blob => into.blobs.push(oid),
            Kind::Tag => {
                into.tags.push(oid);
                let target = objects.read(&oid).and_then(|(_, data)| parse_tag(&data));
                oid = target.ok_or(oid)?;
                continue;
            }
        }
        return Ok(());
    }
}

/// Walks everything that `tips` need and `hide` (present values only) does not reach, and hands each object to `sink`
/// once: commits, tags and trees with their bytes, blobs without. A blob's presence is the sink's to check.
pub(super) fn walk(objects: &Objects, tips: &[Oid], hide: &[Oid], sink: &mut Sink<'_>) -> Result<Walked> {
    let mut new = Tips::default();
    for oid in tips {
        if let Err(missing) = sort_tip(objects, *oid, &mut new) {
            return Ok(Walked::Missing(missing));
        }
    }
    let mut painter = Painter::new(objects);
    let mut old = Vec::new();
    for value in hide {
        let mut hidden = Tips::default();
        // A hidden tag whose target is gone hides what could be followed, which is less: never wrong.
        let _ = sort_tip(objects, *value, &mut hidden);
        hidden.commits.iter().for_each(|commit| painter.add_hidden(*commit, *value));
        old.push((*value, hidden));
    }
    for oid in &new.commits {
        if !painter.add_new(*oid) {
            return Ok(Walked::Missing(*oid));
        }
    }
    match painter.run(None) {
        Ran::Done => painter.settle_roots(),
        Ran::Met => bail!("the walk met a target although none was given: a bug in refrain"),
        Ran::Missing(oid) => return Ok(Walked::Missing(oid)),
    }
    let both = old.iter().flat_map(|(_, tips)| tips.trees.iter().chain(&tips.blobs).chain(&tips.tags));
    let held = both.copied().collect();
    let trees: Vec<Oid> = old.iter().flat_map(|(_, tips)| &tips.trees).copied().collect();
    let ended = Trees { objects, sink, held, seen: HashSet::new() }.all(&painter, &new, &trees)?;
    Ok(ended.unwrap_or_else(|| Walked::All { used: used(&old, &painter.met(&new.commits), &new) }))
}

/// Which hidden values what was left out is reachable from. A tree or blob by itself is rare, and may always be one.
fn used(old: &[(Oid, Tips)], met: &HashSet<Oid>, new: &Tips) -> Vec<Oid> {
    let is_used = |(value, tips): &&(Oid, Tips)| {
        let lone = !tips.trees.is_empty() || !tips.blobs.is_empty();
        met.contains(value) || lone || tips.tags.iter().any(|tag| new.tags.contains(tag))
    };
    old.iter().filter(is_used).map(|(value, _)| *value).collect()
}

/// The second half of a walk: from commits to all objects, by comparing each tree with those of the parents.
struct Trees<'a, 's> {
    objects: &'a Objects,
    sink: &'a mut Sink<'s>,
    /// Objects that a hidden value, or a commit already done, reaches.
    held: HashSet<Oid>,
    seen: HashSet<Oid>,
}

/// Ends the walk with `Some`.
type Ended = Result<Option<Walked>>;

impl Trees<'_, '_> {
    fn all(mut self, painter: &Painter<'_>, tips: &Tips, old_trees: &[Oid]) -> Ended {
        for oid in &tips.tags {
            if let Some(end) = self.whole(*oid, Kind::Tag)? {
                return Ok(Some(end));
            }
        }
        // Parents first: what a parent has counts as held for its children only once the parent itself is done.
        // The other way round, each of two commits could leave an object to the other.
        for oid in painter.parents_first() {
            if let Some(end) = self.whole(oid, Kind::Commit)? {
                return Ok(Some(end));
            }
            let node = &painter.nodes[&oid];
            let bases = node.parents.iter().filter_map(|p| painter.nodes.get(p)?.tree).collect();
            let tree = node.tree.expect("loaded commits have a tree");
            if let Some(end) = self.tree(tree, bases)? {
                return Ok(Some(end));
            }
        }
        for oid in &tips.trees {
            if let Some(end) = self.tree(*oid, old_trees.to_vec())? {
                return Ok(Some(end));
            }
        }
        for oid in &tips.blobs {
            if !self.held.contains(oid)
                && let Some(end) = self.blob(*oid)?
            {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    fn whole(&mut self, oid: Oid, kind: Kind) -> Ended {
        if self.held.contains(&oid) || !self.seen.insert(oid) {
            return Ok(None);
        }
        let Some((_, data)) = self.objects.read(&oid) else { return Ok(Some(Walked::Missing(oid))) };
        self.emit(oid, kind, Some(&data))
    }

    fn blob(&mut self, oid: Oid) -> Ended {
        if !self.seen.insert(oid) {
            return Ok(None);
        }
        self.emit(oid, Kind::Blob, None)
    }

    fn emit(&mut self, oid: Oid, kind: Kind, data: Option<&[u8]>) -> Ended {
        Ok(match (self.sink)(oid, kind, data)? {
            Step::Go => None,
            Step::Missing => Some(Walked::Missing(oid)),
            Step::Stop => Some(Walked::Stopped),
        })
    }

    /// One root tree against the trees at the same place in `bases`, level by level, so that what moved within a level
    /// is found held before it is met.
    fn tree(&mut self, root: Oid, bases: Vec<Oid>) -> Ended {
        let mut level = vec![(root, bases)];
        while !level.is_empty() {
            let mut loaded = Vec::new();
            for (tree, bases) in level {
                if bases.contains(&tree) || self.held.contains(&tree) || !self.seen.insert(tree) {
                    continue;
                }
                let Some((Kind::Tree, data)) = self.objects.read(&tree) else {
                    return Ok(Some(Walked::Missing(tree)));
                };
                if let Some(end) = self.emit(tree, Kind::Tree, Some(&data))? {
                    return Ok(Some(end));
                }
                let bases: Vec<Vec<u8>> = bases.iter().filter_map(|b| Some(self.objects.read(b)?.1)).collect();
                let entries = bases.iter().filter_map(|b| parse_tree(b)).flatten();
                // Not a submodule's commit: no tree brings that, and it may be one of this repository's own.
                self.held.extend(entries.filter(|e| e.kind != EntryKind::Submodule).map(|e| e.oid));
                loaded.push((tree, data, bases));
            }
            level = Vec::new();
            for (tree, data, bases) in &loaded {
                let Some(entries) = parse_tree(data) else { return Ok(Some(Walked::Missing(*tree))) };
                let bases: Vec<Vec<Entry<'_>>> = bases.iter().filter_map(|b| parse_tree(b)).collect();
                for entry in entries {
                    if entry.kind == EntryKind::Submodule || self.held.contains(&entry.oid) {
                        continue;
                    }
                    if entry.kind == EntryKind::Tree {
                        level.push((entry.oid, same_place(&entry, &bases)));
                    } else if let Some(end) = self.blob(entry.oid)? {
                        return Ok(Some(end));
                    }
                }
            }
        }
        Ok(None)
    }
}

fn same_place(entry: &Entry<'_>, bases: &[Vec<Entry<'_>>]) -> Vec<Oid> {
    let of_base =
        |base: &Vec<Entry<'_>>| base.iter().find(|e| e.kind == EntryKind::Tree && e.name == entry.name).map(|e| e.oid);
    bases.iter().filter_map(of_base).collect()
}
