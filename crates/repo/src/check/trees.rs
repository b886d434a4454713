//! Directories: does every snapshot have all it needs, and which snapshots need what is damaged?

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::{Finding, Harm, Problem, stop_if_cancelled};
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::format::tree::{Node, NodeKind, Tree};
use crate::index::{Index, SharedIndex};
use crate::observe::Observer;
use crate::read::{Reader, plain_length};
use crate::{Id, Repository};

/// Walks directories.
pub(super) struct Trees {
    reader: Reader,
    bytes_read: AtomicU64,
}

/// What one directory leads to.
#[derive(Default)]
struct Visited {
    children: Vec<Id>,
    problems: Vec<Problem>,
}

impl Trees {
    pub(super) fn new(repository: &Repository, index: &SharedIndex) -> Self {
        Self { reader: repository.reader(index), bytes_read: AtomicU64::new(0) }
    }

    /// Returns how many bytes of directories were read.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Visits every directory of every snapshot once.
    pub(super) fn walk(
        &mut self,
        snapshots: &[Snapshot],
        watch: &dyn Observer,
        problems: &mut Vec<Problem>,
    ) -> Result<()> {
        watch.phase("walking the snapshots", 0);
        let mut known = HashSet::new();
        let mut level: Vec<Id> = snapshots.iter().map(|snapshot| snapshot.tree).collect();
        level.retain(|tree| known.insert(*tree));
        while !level.is_empty() {
            let visited = in_parallel(&level, watch, |tree| self.visit(tree))?;
            level.clear();
            for visited in visited {
                level.extend(visited.children.into_iter().filter(|tree| known.insert(*tree)));
                problems.extend(visited.problems);
            }
        }
        Ok(())
    }

    fn visit(&self, id: &Id) -> Visited {
        let mut visited = Visited::default();
        let harm = Harm::Blobs(vec![(BlobKind::Tree, *id)]);
        if self.reader.index().read().find(BlobKind::Tree, id).is_some_and(|(_, pack)| pack.waits) {
            visited.problems.push(waiting(format!("tree {id}"), 1, harm.clone()));
        }
        match self.load(id) {
            Ok(tree) => {
                let index = self.reader.index().read();
                for node in &tree.nodes {
                    if let Some(problem) = examine(node, &index, harm.clone()) {
                        visited.problems.push(problem);
                    }
                }
                visited.children = tree.nodes.iter().filter_map(|node| node.subtree).collect();
            }
            Err(Error::BlobMissing { .. }) => {
                visited.problems.push(Problem::new(
                    "blob-missing",
                    format!("tree {id}"),
                    "no index names it",
                    harm,
                ));
            }
            Err(error) => {
                visited.problems.push(Problem::new(
                    "tree-damaged",
                    format!("tree {id}"),
                    error.to_string(),
                    harm,
                ));
            }
        }
        visited
    }

    fn load(&self, id: &Id) -> Result<Tree> {
        if let Some(location) = self.reader.index().read().get(BlobKind::Tree, id) {
            self.bytes_read.fetch_add(u64::from(location.length), Ordering::Relaxed);
        }
        self.reader.tree(id)
    }

    /// Makes findings of problems: tells which snapshots each one harms.
    pub(super) fn attribute(
        &self,
        problems: Vec<Problem>,
        snapshots: &[Snapshot],
        watch: &dyn Observer,
    ) -> Result<Vec<Finding>> {
        let harms = Harms::of(&problems);
        let mut affected = vec![BTreeSet::new(); problems.len()];
        if !harms.is_empty() {
            let graph = self.graph(&harms, snapshots, watch)?;
            for snapshot in snapshots {
                let Some(id) = snapshot.id else { continue };
                for problem in graph.reachable(&snapshot.tree) {
                    affected[problem].insert(id);
                }
            }
        }
        let findings = problems.into_iter().zip(affected).map(|(problem, mut affected)| {
            if let Harm::Snapshots(ids) = problem.harm {
                affected.extend(ids);
            }
            let affects = affected.into_iter().collect();
            Finding { kind: problem.kind, object: problem.object, what: problem.what, affects }
        });
        Ok(findings.collect())
    }

    /// Notes for every directory of every snapshot which problems it has itself, and where it leads.
    fn graph(&self, harms: &Harms, snapshots: &[Snapshot], watch: &dyn Observer) -> Result<Graph> {
        let mut graph = Graph::default();
        let mut known = HashSet::new();
        let mut level: Vec<Id> = snapshots.iter().map(|snapshot| snapshot.tree).collect();
        level.retain(|tree| known.insert(*tree));
        while !level.is_empty() {
            let read = in_parallel(&level, watch, |id| {
                let index = self.reader.index().read();
                let mut own = BTreeSet::new();
                harms.collect(&index, BlobKind::Tree, id, &mut own);
                drop(index);
                // One that cannot be read has its own problem, with itself as what is harmed.
                let nodes = self.reader.tree(id).map_or_else(|_| Vec::new(), |tree| tree.nodes);
                let index = self.reader.index().read();
                for id in nodes.iter().filter_map(|node| node.content.as_ref()).flatten() {
                    harms.collect(&index, BlobKind::Data, id, &mut own);
                }
                let children: Vec<Id> = nodes.iter().filter_map(|node| node.subtree).collect();
                (*id, own, children)
            })?;
            level.clear();
            for (id, own, children) in read {
                level.extend(children.iter().copied().filter(|tree| known.insert(*tree)));
                graph.trees.insert(id, (own, children));
            }
        }
        Ok(graph)
    }
}

/// Looks at one entry of a directory: are all its blobs in the index, and has it the size it claims?
fn examine(node: &Node, index: &Index, tree: Harm) -> Option<Problem> {
    let object = || format!("file {:?}", node.name);
    if node.kind == NodeKind::Directory && node.subtree.is_none() {
        return Some(Problem::new(
            "tree-damaged",
            format!("directory {:?}", node.name),
            "it has no tree",
            tree,
        ));
    }
    if node.kind != NodeKind::File {
        return None;
    }
    let mut size = 0u64;
    let mut missing = Vec::new();
    let mut in_waiting_packs = Vec::new();
    for id in node.content.iter().flatten() {
        let found = index.find(BlobKind::Data, id);
        if found.as_ref().is_some_and(|(_, pack)| pack.waits) {
            in_waiting_packs.push((BlobKind::Data, *id));
        }
        match found.and_then(|(location, _)| plain_length(&location)) {
            Some(length) => size += u64::from(length),
            None => missing.push((BlobKind::Data, *id)),
        }
    }
    if let Some((_, first)) = missing.first() {
        let what = format!("{} of its blobs are in no index, the first is {first}", missing.len());
        return Some(Problem::new("blob-missing", object(), what, Harm::Blobs(missing)));
    }
    if !in_waiting_packs.is_empty() {
        return Some(waiting(object(), in_waiting_packs.len(), Harm::Blobs(in_waiting_packs)));
    }
    (size != node.size).then(|| {
        let what = format!("it claims {} bytes and its blobs have {size}", node.size);
        Problem::new("file-size", object(), what, tree)
    })
}

/// Makes the problem of something whose blobs are only in packs that a prune has marked: stock tools do not find them.
fn waiting(object: String, blobs: usize, harm: Harm) -> Problem {
    let what = format!(
        "{blobs} of its blobs are only in packs that wait for their removal: `dbkeep prune` takes those back"
    );
    Problem::new("blob-waiting", object, what, harm)
}

/// From what is damaged to the numbers of the problems with it.
#[derive(Default)]
struct Harms {
    blobs: HashMap<(BlobKind, Id), Vec<usize>>,
    packs: HashMap<Id, Vec<usize>>,
}

impl Harms {
    fn of(problems: &[Problem]) -> Self {
        let mut harms = Self::default();
        for (number, problem) in problems.iter().enumerate() {
            match &problem.harm {
                Harm::None | Harm::Snapshots(_) => {}
                Harm::Pack(pack) => harms.packs.entry(*pack).or_default().push(number),
                Harm::Blobs(blobs) => {
                    for blob in blobs {
                        harms.blobs.entry(*blob).or_default().push(number);
                    }
                }
            }
        }
        harms
    }

    fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.packs.is_empty()
    }

    /// Adds the problems of one blob.
    fn collect(&self, index: &Index, kind: BlobKind, id: &Id, into: &mut BTreeSet<usize>) {
        into.extend(self.blobs.get(&(kind, *id)).into_iter().flatten());
        if self.packs.is_empty() {
            return;
        }
        if let Some(location) = index.get(kind, id) {
            into.extend(self.packs.get(&location.pack).into_iter().flatten());
        }
    }
}

/// Directories with their own problems and their sub-directories.
#[derive(Default)]
struct Graph {
    trees: HashMap<Id, (BTreeSet<usize>, Vec<Id>)>,
}

impl Graph {
    /// Returns the problems of a directory and of everything below it.
    fn reachable(&self, root: &Id) -> BTreeSet<usize> {
        let mut problems = BTreeSet::new();
        let mut seen = HashSet::from([*root]);
        let mut rest = vec![*root];
        while let Some((own, children)) = rest.pop().and_then(|tree| self.trees.get(&tree)) {
            problems.extend(own);
            rest.extend(children.iter().copied().filter(|tree| seen.insert(*tree)));
        }
        problems
    }
}

/// Does `work` for every id on several threads. Returns the results in no order.
fn in_parallel<T: Send>(ids: &[Id], watch: &dyn Observer, work: impl Fn(&Id) -> T + Sync) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(ids.len()));
    let threads = thread::available_parallelism().map_or(1, usize::from).min(ids.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if watch.cancelled() {
                        return;
                    }
                    let result = work(id);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
            });
        }
    });
    stop_if_cancelled(watch)?;
    Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner))
}
