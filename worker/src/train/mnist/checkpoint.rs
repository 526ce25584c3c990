//! What survives `kill -9`: everything the next epoch depends on, in one safetensors file.
//!
//! It is written after every epoch beside the old one and renamed over it. The recipe is stored
//! too, since continuing with other settings would give a model that no command can reproduce.

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use super::{network::Weights, optimizer::Learner, trainer::generator};
use crate::{
    Error,
    train::{directory, invalid},
};

/// The settings that determine the result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Recipe {
    /// Seed of every random draw.
    pub seed: u64,
    /// Passes over the images.
    pub epochs: usize,
    /// Images per step.
    pub batch_size: usize,
    /// Images kept aside.
    pub hold_out: usize,
    /// Images used, 0 for all.
    pub limit: usize,
    /// Largest learning rate.
    pub rate: f32,
    /// Strength of the variation.
    pub augment: f32,
}

/// Formats the recipe as the flags that request it.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, epochs, batch_size, hold_out, limit, rate, augment } = self;
        write!(
            f,
            "--seed {seed} --epochs {epochs} --batch-size {batch_size} --hold-out {hold_out}"
        )?;
        write!(f, " --limit {limit} --rate {rate} --augment {augment}")
    }
}

/// The measurements of one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Epoch {
    /// Mean training loss on varied images with smoothed targets.
    pub loss: f64,
    /// Share of varied training images read correctly.
    pub accuracy: f64,
    /// Learning rate at its end.
    pub rate: f32,
    /// Wall-clock time that the epoch took.
    pub seconds: f64,
    /// Loss and accuracy of the average weights on the held-out images.
    pub held_out: Option<(f64, f64)>,
}

/// A run so far.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Progress {
    /// Weights and the state of the optimiser.
    pub learner: Learner,
    /// The average weights after the best epoch.
    pub best: Weights,
    /// Index of the best epoch.
    pub best_epoch: usize,
    /// The measurements of each epoch, in order.
    pub history: Vec<Epoch>,
}

/// A run so far, with the recipe it was started with.
pub(super) type Checkpoint = (Recipe, Progress);

/// A named part of the state.
type Vector<'a> = (&'static str, &'a Vec<f32>);

#[derive(Serialize, Deserialize)]
struct Notes {
    recipe: Recipe,
    history: Vec<Epoch>,
    best_epoch: usize,
    step: usize,
}

impl Epoch {
    /// Writes one line to the log.
    pub(super) fn log(&self) {
        let (held_out_loss, held_out_accuracy) = self.held_out.unwrap_or((f64::NAN, f64::NAN));
        tracing::info!(
            loss = %format_args!("{:.4}", self.loss),
            accuracy = %format_args!("{:.4}", self.accuracy),
            held_out_loss = %format_args!("{held_out_loss:.4}"),
            held_out_accuracy = %format_args!("{held_out_accuracy:.4}"),
            seconds = %format_args!("{:.1}", self.seconds),
            "epoch"
        );
    }
}

impl Progress {
    /// The state before the first epoch.
    pub(super) fn new(recipe: &Recipe) -> Self {
        let learner = Learner::new(Weights::random(&mut generator(&[recipe.seed])));
        let best = learner.average.clone();
        Self { learner, best, best_epoch: 0, history: Vec::new() }
    }

    /// Adds an epoch; its average becomes the best unless an earlier one did better on the
    /// held-out images.
    pub(super) fn record(&mut self, epoch: Epoch) {
        let accuracy = |epoch: &Epoch| epoch.held_out.map_or(0.0, |(_, accuracy)| accuracy);
        let previous = self.history.get(self.best_epoch).map_or(0.0, accuracy);
        if accuracy(&epoch) >= previous {
            self.best = self.learner.average.clone();
            self.best_epoch = self.history.len();
        }
        self.history.push(epoch);
    }

    fn vectors(&self) -> [Vector<'_>; 8] {
        let Learner { weights, average, momentum, second_moment, .. } = &self.learner;
        [
            ("weights.parameters", &weights.parameters),
            ("weights.statistics", &weights.statistics),
            ("average.parameters", &average.parameters),
            ("average.statistics", &average.statistics),
            ("momentum", momentum),
            ("energy", second_moment),
            ("best.parameters", &self.best.parameters),
            ("best.statistics", &self.best.statistics),
        ]
    }
}

/// The checkpoint file of a run whose state is kept in `state`.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join("checkpoint.safetensors")
}

/// Writes the checkpoint and `history.json`.
pub(super) fn save(state: &Path, recipe: &Recipe, progress: &Progress) -> Result<(), Error> {
    fs::create_dir_all(state).map_err(Error::file(state))?;
    let notes = Notes {
        recipe: recipe.clone(),
        history: progress.history.clone(),
        best_epoch: progress.best_epoch,
        step: progress.learner.step,
    };
    let vectors = progress.vectors().map(|(name, values)| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        (name, values.len(), bytes)
    });
    let views = vectors.iter().map(|(name, len, bytes)| {
        let view = TensorView::new(Dtype::F32, vec![*len], bytes);
        (*name, view.expect("four bytes a value"))
    });
    let metadata = HashMap::from([("notes".to_owned(), serde_json::to_string(&notes)?)]);
    let path = path(state);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| invalid(&path, e))?;
    directory::replace_file(&path, &bytes)?;
    let history = serde_json::to_string_pretty(&notes.history)?;
    directory::replace_file(&state.join("history.json"), history.as_bytes())
}

/// Reads the checkpoint in `state`, if there is one.
pub(super) fn load(state: &Path) -> Result<Option<Checkpoint>, Error> {
    let path = path(state);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file(&path)(e)),
    };
    let damaged = |e: &dyn fmt::Display| invalid(&path, format!("not a checkpoint ({e})"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
    let notes = metadata.metadata().as_ref().and_then(|m| m.get("notes"));
    let notes = notes.ok_or_else(|| damaged(&"no notes"))?;
    let notes: Notes = serde_json::from_str(notes).map_err(|e| damaged(&e))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
    let mut progress = Progress::new(&notes.recipe);
    let expected = progress.vectors().map(|(name, values)| (name, values.len()));
    let mut read = Vec::new();
    for (name, len) in expected {
        let values = tensors.tensor(name).map_err(|e| damaged(&e))?;
        if values.dtype() != Dtype::F32 || values.shape() != [len] {
            return Err(damaged(&format!("{name} has another size")));
        }
        let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        read.push(values.data().chunks_exact(4).map(value).collect::<Vec<f32>>());
    }
    let [wp, ws, ap, as_, momentum, second_moment, bp, bs] =
        <[Vec<f32>; 8]>::try_from(read).expect("as many as vectors() names");
    progress.learner = Learner {
        weights: Weights { parameters: wp, statistics: ws },
        average: Weights { parameters: ap, statistics: as_ },
        momentum,
        second_moment,
        step: notes.step,
    };
    progress.best = Weights { parameters: bp, statistics: bs };
    if notes.best_epoch >= notes.history.len().max(1) {
        return Err(damaged(&"the best epoch lies in the future"));
    }
    progress.best_epoch = notes.best_epoch;
    progress.history = notes.history;
    Ok(Some((notes.recipe, progress)))
}

/// Removes the checkpoint of a completed run.
pub(super) fn remove(state: &Path) -> Result<(), Error> {
    let path = path(state);
    fs::remove_file(&path).map_err(Error::file(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        let (rate, augment) = (0.003, 1.0);
        Recipe { seed: 5, epochs: 3, batch_size: 8, hold_out: 0, limit: 0, rate, augment }
    }

    fn epoch(accuracy: f64) -> Epoch {
        Epoch { loss: 0.5, accuracy, rate: 0.1, seconds: 1.0, held_out: Some((0.1, accuracy)) }
    }

    #[test]
    fn a_checkpoint_reads_back_equal() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).unwrap().is_none());
        let mut progress = Progress::new(&recipe());
        progress.learner.step = 7;
        progress.learner.momentum[3] = 0.1;
        progress.record(epoch(0.9));
        save(dir.path(), &recipe(), &progress).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some((recipe(), progress)));
    }

    #[test]
    fn a_damaged_checkpoint_is_an_error_not_a_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        let progress = Progress::new(&recipe());
        save(dir.path(), &recipe(), &progress).unwrap();
        let whole = fs::read(path(dir.path())).unwrap();
        for keep in [0, 7, 100, whole.len() - 1] {
            fs::write(path(dir.path()), &whole[..keep]).unwrap();
            assert!(load(dir.path()).unwrap_err().to_string().contains("not a checkpoint"));
        }
    }

    #[test]
    fn the_best_epoch_is_the_latest_of_the_most_accurate() {
        let mut progress = Progress::new(&recipe());
        for accuracy in [0.5, 0.9, 0.9, 0.8] {
            progress.record(epoch(accuracy));
        }
        assert_eq!(progress.best_epoch, 2);
    }
}
