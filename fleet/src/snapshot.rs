//! The pool at one moment, and what it offers for a request.
//!
//! A snapshot offers [`Candidates`]: the available endpoints that serve the model, in the order of
//! the list, so that "the first k endpoints" is a prefix. Models that are served by the same
//! endpoints share one set, so the number of sets depends on the fleet and not on the names that
//! clients send.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use wire::ModelIndexEntry;

use crate::endpoint::{Endpoint, EndpointId};
use crate::state::{Probe, State};

/// Endpoints in the order of the list, with their positions in it.
#[derive(Debug, Clone, Default)]
struct Group {
    endpoints: Vec<Arc<Endpoint>>,
    positions: Vec<usize>,
}

impl Group {
    fn push(&mut self, position: usize, endpoint: &Arc<Endpoint>) {
        self.endpoints.push(Arc::clone(endpoint));
        self.positions.push(position);
    }

    /// Those among the first `count` endpoints of the list.
    fn first(&self, count: usize) -> &[Arc<Endpoint>] {
        let end = self.positions.partition_point(|position| *position < count);
        &self.endpoints[..end]
    }
}

/// Requests that may go to the same endpoints: the first few of one set. The numbers are meaningful
/// only in the snapshot that returned them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// Index of the endpoint set within its snapshot.
    pub set: usize,
    /// How many of its endpoints take part, counted from the first; never 0.
    pub first: usize,
}

/// The endpoints that may take a request.
#[derive(Debug)]
pub enum Candidates<'a> {
    /// These; never empty.
    Some(Class, &'a [Arc<Endpoint>]),
    /// These serve the model, but no probe has reported the version. It may be new, and they can
    /// refuse it. Not worth waiting for.
    Unheard(&'a [Arc<Endpoint>]),
    /// No endpoint right now.
    None,
    /// The model will be served soon: it is loading, or its endpoints are out.
    Loading,
    /// No endpoint has the model.
    UnknownModel,
}

/// The pool as it was at one moment.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    all: Vec<Arc<Endpoint>>,
    /// Every set of available endpoints that some request may go to; the first has all of them, the
    /// second those that have not reported their models.
    sets: Vec<Group>,
    /// The set that serves a model, by each of its [`message::keys`]. There are few of them, so a
    /// lookup takes less time than hashing a name.
    models: BTreeMap<Box<str>, usize>,
    /// Names of the models that some available endpoint serves, the default first.
    ready_models: Vec<Box<str>>,
    /// The model lists that endpoints have reported, each once.
    lists: Vec<Models>,
    /// The position of each endpoint in the list, by its identity.
    positions: Vec<(EndpointId, usize)>,
    is_panicking: bool,
}

/// The set of all available endpoints.
const AVAILABLE: usize = 0;
/// The set of available endpoints that have not reported their models.
const UNTOLD: usize = 1;

impl Default for Snapshot {
    fn default() -> Self {
        Self::new(Vec::new(), 0, 0)
    }
}

impl Snapshot {
    /// The snapshot of `all` endpoints; if fewer than `panic_percent` are available, it offers
    /// ejected ones as well.
    pub(crate) fn new(all: Vec<Arc<Endpoint>>, panic_percent: usize, generation: u64) -> Self {
        let states: Vec<State> = all.iter().map(|endpoint| endpoint.state()).collect();
        // Endpoints that an operator keeps requests away from say nothing about the others.
        let is_offered =
            |position: usize| !states[position].is_withdrawn() && all[position].weight() > 0;
        let is_available = |position: &usize| states[*position].is_available();
        let offered = (0..all.len()).filter(|position| is_offered(*position));
        let available = offered.clone().filter(is_available).count();
        let is_panicking = available * 100 < offered.count() * panic_percent;
        let is_taking = |position: usize| {
            let is_up = matches!(states[position].probe, Probe::Up { .. });
            is_offered(position) && (is_available(&position) || is_panicking && is_up)
        };
        let mut sets = vec![Group::default(), Group::default()];
        let mut told = Told::default();
        for (position, endpoint) in all.iter().enumerate() {
            let is_taking = is_taking(position);
            if is_taking {
                sets[AVAILABLE].push(position, endpoint);
            }
            match endpoint.models() {
                Some(models) => told.add(models, is_taking.then_some(position)),
                None if is_taking => sets[UNTOLD].push(position, endpoint),
                None => {}
            }
        }
        let offers = told.offers();
        if offers.is_empty() {
            // No endpoint reported a model: what they serve is not known here.
            sets[UNTOLD] = sets[AVAILABLE].clone();
        }
        let models = share_sets(&mut sets, &all, &told, &offers);
        let is_ready =
            |name: &str| models.get(name).is_some_and(|set| !sets[*set].endpoints.is_empty());
        let ready_models = ready_models(&offers, is_ready);
        let lists = told.lists;
        let mut positions: Vec<_> =
            all.iter().enumerate().map(|(position, endpoint)| (endpoint.id(), position)).collect();
        positions.sort_unstable();
        Self { generation, all, sets, models, ready_models, lists, positions, is_panicking }
    }

    /// Every endpoint, in the order of the list.
    pub fn all(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    /// The endpoints that may be picked.
    pub fn available(&self) -> &[Arc<Endpoint>] {
        &self.sets[AVAILABLE].endpoints
    }

    /// Increases with every snapshot of a pool.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The endpoints that a request of `class` may go to.
    pub fn class(&self, class: Class) -> &[Arc<Endpoint>] {
        let set = self.set(class.set);
        &set[..class.first.min(set.len())]
    }

    /// Whether an endpoint is one of those that a request of `class` may go to.
    pub fn takes(&self, endpoint: EndpointId, class: Class) -> bool {
        let position = self.positions.binary_search_by_key(&endpoint, |(id, _)| *id);
        let position = position.ok().map(|index| self.positions[index].1);
        let of_set = self.sets.get(class.set).zip(position);
        let place = of_set.and_then(|(set, position)| set.positions.binary_search(&position).ok());
        place.is_some_and(|place| place < class.first)
    }

    /// The endpoints of a set.
    pub fn set(&self, set: usize) -> &[Arc<Endpoint>] {
        self.sets.get(set).map_or(&[], |set| &set.endpoints)
    }

    /// Whether ejected endpoints are used as well, because too few others are left.
    pub fn is_panicking(&self) -> bool {
        self.is_panicking
    }

    /// Names of the models that some available endpoint serves, the default first.
    pub fn models(&self) -> Vec<&str> {
        self.ready_models.iter().map(|name| &**name).collect()
    }

    /// The model for requests that name none.
    pub fn default_model(&self) -> Option<&str> {
        self.ready_models.first().map(|name| &**name)
    }

    /// The same list as some endpoint has already reported it, if any.
    pub(crate) fn listed(&self, models: &[ModelIndexEntry]) -> Option<Models> {
        self.lists.iter().find(|list| ***list == *models).cloned()
    }

    /// Every version that some endpoint has reported, as ready if it is ready on any. Empty while
    /// no endpoint has reported its models.
    pub fn index(&self) -> Vec<ModelIndexEntry> {
        let mut versions: BTreeMap<(&str, &str), &ModelIndexEntry> = BTreeMap::new();
        for entry in self.lists.iter().flat_map(|models| models.iter()) {
            let known = versions.entry((&entry.name, &entry.version)).or_insert(entry);
            if known.state != "READY" && entry.state == "READY" {
                *known = entry;
            }
        }
        versions.into_values().cloned().collect()
    }

    /// The endpoints that may take a request for `model` (one of its [`message::keys`]; the default
    /// model for an empty name, any endpoint for `None`) among the first `count` endpoints.
    pub fn candidates(&self, model: Option<&str>, count: usize) -> Candidates<'_> {
        let model = match model {
            Some("") => self.default_model(),
            other => other,
        };
        let Some(model) = model else { return self.first_of(AVAILABLE, count) };
        if let Some(set) = self.models.get(model) {
            if self.set(*set).is_empty() {
                return Candidates::Loading;
            }
            return self.first_of(*set, count);
        }
        let of_model = model.split_once('/').and_then(|(name, _)| self.models.get(name));
        if let Some(set) = of_model {
            return match self.sets[*set].first(count) {
                [] if self.set(*set).is_empty() => Candidates::Loading,
                [] => Candidates::None,
                some => Candidates::Unheard(some),
            };
        }
        if !self.available().is_empty() && self.set(UNTOLD).is_empty() {
            return Candidates::UnknownModel;
        }
        self.first_of(UNTOLD, count)
    }

    fn first_of(&self, set: usize, count: usize) -> Candidates<'_> {
        match self.sets[set].first(count) {
            [] => Candidates::None,
            some => Candidates::Some(Class { set, first: some.len() }, some),
        }
    }
}

/// The models that an endpoint has reported.
type Models = Arc<Vec<ModelIndexEntry>>;

/// The models that endpoints have reported. Most endpoints of a fleet report the same, so the work
/// is done once per list and not once per endpoint.
#[derive(Debug, Default)]
struct Told {
    lists: Vec<Models>,
    /// For each list, the positions of the endpoints that serve it and take requests.
    taking: Vec<Vec<usize>>,
    known: HashMap<*const Vec<ModelIndexEntry>, usize>,
}

impl Told {
    /// Adds the list of one endpoint, with its position if it takes requests.
    fn add(&mut self, models: Models, position: Option<usize>) {
        let list = *self.known.entry(Arc::as_ptr(&models)).or_insert_with(|| {
            self.lists.push(models);
            self.taking.push(Vec::new());
            self.lists.len() - 1
        });
        self.taking[list].extend(position);
    }

    /// Everything that a request may ask for, by its [`message::keys`].
    fn offers(&self) -> HashMap<Box<str>, Offer> {
        let entries = self.lists.iter().enumerate().flat_map(|(list, models)| {
            // A version that is broken or leaving is offered by no endpoint.
            let served = models.iter().filter(|one| matches!(&*one.state, "READY" | "LOADING"));
            served.map(move |entry| (list, entry))
        });
        let mut offers: HashMap<Box<str>, Offer> = HashMap::new();
        for (list, entry) in entries {
            for key in message::keys(entry) {
                offers.entry(key.into()).or_default().add(list, entry);
            }
        }
        offers
    }

    /// The positions of the endpoints that serve one of these lists.
    fn positions(&self, lists: &[usize]) -> Vec<usize> {
        let mut positions: Vec<usize> =
            lists.iter().flat_map(|list| &self.taking[*list]).copied().collect();
        positions.sort_unstable();
        positions
    }
}

/// Where a key that a request may ask for is served.
#[derive(Debug, Default)]
struct Offer {
    /// The lists in which it is ready.
    lists: Vec<usize>,
    takes_images: bool,
}

impl Offer {
    /// Adds what one of the lists says about it.
    fn add(&mut self, list: usize, entry: &ModelIndexEntry) {
        self.takes_images |= entry.takes_images;
        if entry.state == "READY" && self.lists.last() != Some(&list) {
            self.lists.push(list);
        }
    }
}

/// Names of the models that are ready somewhere, the default first.
fn ready_models(
    offers: &HashMap<Box<str>, Offer>,
    is_ready: impl Fn(&str) -> bool,
) -> Vec<Box<str>> {
    let mut models: Vec<(&str, bool)> = offers
        .iter()
        .map(|(key, offer)| (&**key, offer.takes_images))
        .filter(|(key, _)| !key.contains('/') && is_ready(key))
        .collect();
    models.sort_by_key(|(name, takes_images)| message::preference(name, *takes_images));
    models.into_iter().map(|(name, _)| name.into()).collect()
}

/// Makes all models that the same endpoints serve share one set; returns the set of each.
fn share_sets(
    sets: &mut Vec<Group>,
    all: &[Arc<Endpoint>],
    told: &Told,
    offers: &HashMap<Box<str>, Offer>,
) -> BTreeMap<Box<str>, usize> {
    let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
    known.insert(sets[AVAILABLE].positions.clone(), AVAILABLE);
    let mut of_lists: HashMap<&[usize], usize> = HashMap::new();
    let mut models = BTreeMap::new();
    for (key, offer) in offers {
        let set = *of_lists.entry(&offer.lists).or_insert_with(|| {
            let positions = told.positions(&offer.lists);
            *known.entry(positions).or_insert_with_key(|positions| {
                let endpoints = positions.iter().map(|at| Arc::clone(&all[*at])).collect();
                sets.push(Group { endpoints, positions: positions.clone() });
                sets.len() - 1
            })
        });
        models.insert(key.clone(), set);
    }
    models
}
