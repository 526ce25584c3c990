//! `worker train sql`: a model from a SQL statement.
//!
//! The flow: [`statement`] reads `CREATE MODEL … AS SELECT …`, [`frame`] runs the query in SQLite,
//! [`encode`] makes numbers of the rows, [`fit`] trains on most of them, [`evaluation`] measures on
//! the rest, and the next version folder of the model appears in the repository.

mod encode;
mod evaluation;
mod fit;
mod frame;
mod lexer;
mod statement;

use super::{directory, invalid};
use crate::{
    Error,
    repository::{Manifest, Table},
};
use candle_core::{Device, Tensor};
use candle_nn::ops::softmax;
use encode::Examples;
use evaluation::Evaluation;
use fit::{Layer, Limits, Objective};
use frame::CsvTable;
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus, seq::SliceRandom};
use serde::Serialize;
use statement::{ModelType, Options, Statement};
use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

const EXAMPLES: &str = "\
Example: iris.sql holds

  CREATE OR REPLACE MODEL iris_model
  OPTIONS(model_type='logistic_reg', input_label_cols=['species'], max_iterations=200, l2_reg=0.01)
  AS SELECT sepal_length, sepal_width, petal_length, petal_width, species FROM iris

  worker train sql iris.sql --csv iris=iris.csv      rows from a CSV file
  worker train sql iris.sql --db data.sqlite         rows from a database

Numbers are standardised and texts one-hot encoded. A row without a label is left out. Options:
model_type 'logistic_reg' or 'linear_reg'; input_label_cols ['label']; max_iterations 200;
l2_reg 0; data_split_eval_fraction 0.2. Without OR REPLACE the model must be new; with it, the
next version is written beside the old ones.";

/// Arguments of `worker train sql`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// File with the CREATE MODEL statement.
    statement: PathBuf,
    /// SQLite database that the query reads; it is not changed.
    #[arg(long, env = "WORKER_DB", value_name = "FILE")]
    db: Option<PathBuf>,
    /// CSV file with a header, for the query to read as a table; may be repeated.
    #[arg(long, env = "WORKER_CSV", value_name = "TABLE=FILE", value_delimiter = ',')]
    csv: Vec<CsvTable>,
    /// The model repository to write to.
    #[arg(long, env = "WORKER_MODELS", default_value = "models", value_name = "DIR")]
    models: PathBuf,
    /// Decides which rows are kept for the evaluation.
    #[arg(long, env = "WORKER_SEED", default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Print JSON instead of a table.
    #[arg(long, env = "WORKER_JSON")]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    version: u64,
    folder: PathBuf,
    rows: usize,
    /// Rows measured on; they are training rows where none could be kept.
    evaluated_rows: usize,
    held_out: bool,
    iterations: usize,
    evaluation: Evaluation,
}

/// Runs `worker train sql`.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    let path = &args.statement;
    let text = fs::read_to_string(path).map_err(Error::file(path))?;
    let statement = statement::parse(&text).map_err(|complaint| invalid(path, complaint))?;
    let version = next_version(&args.models, &statement)?;
    let connection = frame::open(args.db.as_deref())?;
    for (i, table) in args.csv.iter().enumerate() {
        if args.csv[..i].iter().any(|other| other.name.eq_ignore_ascii_case(&table.name)) {
            let message =
                format!("--csv gives the table {} twice: name one of them anew", table.name);
            return Err(Error::Invalid(message));
        }
        let rows = frame::import(&connection, table)?;
        tracing::info!(table = table.name, rows, "imported");
    }
    let frame = frame::query(&connection, &statement, path, &text)?;
    let examples =
        encode::encode(&frame, &statement).map_err(|complaint| invalid(path, complaint))?;
    let report = train(args, &statement, &examples, version)?;
    let folder = &report.1.folder;
    write(folder, &examples, &report.0, &text)?;
    print(&report.1, args.json, out)
}

fn train(
    args: &Args,
    statement: &Statement,
    examples: &Examples,
    version: u64,
) -> Result<(Layer, Report), Error> {
    let rows = examples.targets.len();
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(args.seed));
    let kept = share(rows, statement.options.eval_fraction);
    let (evaluated, trained) = order.split_at(kept);
    let layer = fit_rows(examples, trained, &statement.options)?;
    let evaluated = if kept > 0 { evaluated } else { trained };
    let evaluation = evaluate(examples, evaluated, &layer)?;
    let report = Report {
        model: statement.name.clone(),
        version,
        folder: args.models.join(&statement.name).join(version.to_string()),
        rows,
        evaluated_rows: evaluated.len(),
        held_out: kept > 0,
        iterations: layer.iterations,
        evaluation,
    };
    Ok((layer, report))
}

/// One more than the newest version there is.
fn next_version(models: &Path, statement: &Statement) -> Result<u64, Error> {
    let folder = models.join(&statement.name);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(1),
        Err(e) => return Err(Error::file(&folder)(e)),
    };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u64>().ok();
    let newest = entries.filter_map(Result::ok).filter_map(number).max();
    match newest {
        Some(newest) if !statement.replace => Err(invalid(
            &folder,
            format!("version {newest} exists: write CREATE OR REPLACE MODEL to add the next one"),
        )),
        newest => Ok(newest.unwrap_or(0).saturating_add(1)),
    }
}

/// Rows to keep aside: none where that would leave nothing to learn from.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= share <= rows")]
fn share(rows: usize, fraction: f64) -> usize {
    let kept = (rows as f64 * fraction).round() as usize;
    if rows - kept < 2 { 0 } else { kept }
}

/// The features of `rows` as a tensor.
fn features(examples: &Examples, rows: &[usize]) -> Result<Tensor, Error> {
    let width = examples.table.width();
    let values: Vec<f32> = rows
        .iter()
        .flat_map(|&row| &examples.features[row * width..(row + 1) * width])
        .copied()
        .collect();
    Ok(Tensor::from_vec(values, (rows.len(), width), &Device::Cpu)?)
}

#[expect(clippy::cast_possible_truncation, reason = "networks compute in f32")]
fn fit_rows(examples: &Examples, rows: &[usize], options: &Options) -> Result<Layer, Error> {
    let features = features(examples, rows)?;
    let limits = Limits { max_iterations: options.max_iterations, l2_reg: options.l2_reg };
    let targets: Vec<f64> = rows.iter().map(|&row| examples.targets[row]).collect();
    match options.model_type {
        ModelType::Logistic => {
            let classes = examples.classes.len();
            let mut one_hot = vec![0f32; rows.len() * classes];
            for (row, &class) in one_hot.chunks_exact_mut(classes).zip(&targets) {
                row[class_number(class)] = 1.0;
            }
            let one_hot = Tensor::from_vec(one_hot, (rows.len(), classes), &Device::Cpu)?;
            Ok(fit::fit(&features, &one_hot, Objective::CrossEntropy, limits)?)
        }
        ModelType::Linear => {
            // Fitted to standardised values, so that one tolerance serves every unit.
            let count = rows.len() as f64;
            let mean = targets.iter().sum::<f64>() / count;
            let variance = targets.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            let std = if variance > 0.0 { variance.sqrt() } else { 1.0 };
            let scaled: Vec<f32> = targets.iter().map(|v| ((v - mean) / std) as f32).collect();
            let scaled = Tensor::from_vec(scaled, (rows.len(), 1), &Device::Cpu)?;
            let mut layer = fit::fit(&features, &scaled, Objective::Squares, limits)?;
            layer.weight = (layer.weight * std)?;
            layer.bias = ((layer.bias * std)? + mean)?;
            Ok(layer)
        }
    }
}

fn evaluate(examples: &Examples, rows: &[usize], layer: &Layer) -> Result<Evaluation, Error> {
    let outputs = features(examples, rows)?.matmul(&layer.weight.t()?)?;
    let outputs = outputs.broadcast_add(&layer.bias)?;
    let actual = rows.iter().map(|&row| examples.targets[row]);
    if examples.classes.is_empty() {
        let predicted: Vec<f32> = outputs.flatten_all()?.to_vec1()?;
        let predicted: Vec<f64> = predicted.into_iter().map(f64::from).collect();
        return Ok(evaluation::regression(&predicted, &actual.collect::<Vec<_>>()));
    }
    let probabilities = softmax(&outputs, 1)?.to_vec2::<f32>()?;
    let actual: Vec<usize> = actual.map(class_number).collect();
    Ok(evaluation::classification(&probabilities, &actual, &examples.classes))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "made from an index")]
fn class_number(target: f64) -> usize {
    target as usize
}

/// The version folder: manifest, weights, labels, and the statement that made them.
fn write(folder: &Path, examples: &Examples, layer: &Layer, sql: &str) -> Result<(), Error> {
    let manifest = manifest(&examples.table);
    let tensors = HashMap::from([
        ("weight".to_owned(), layer.weight.clone()),
        ("bias".to_owned(), layer.bias.clone()),
    ]);
    directory::replace(folder, |dir| {
        directory::write_model(dir, &manifest, &tensors)?;
        directory::write_file(&dir.join("training.sql"), sql.as_bytes())?;
        let labels: String = examples.classes.iter().flat_map(|c| [c.as_str(), "\n"]).collect();
        if labels.is_empty() {
            return Ok(());
        }
        directory::write_file(&dir.join("labels.txt"), labels.as_bytes())
    })
}

fn manifest(table: &Table) -> Manifest {
    #[derive(Serialize)]
    struct Text<'a> {
        architecture: &'a str,
        max_batch_size: usize,
        table: &'a Table,
    }
    let text = Text { architecture: "linear", max_batch_size: 1024, table };
    let text = toml::to_string(&text).expect("a table is plain data");
    Manifest::parse(&text).expect("a fitted table is valid")
}

fn print(report: &Report, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        return Ok(writeln!(out)?);
    }
    writeln!(out, "model       {} version {}", report.model, report.version)?;
    writeln!(out, "folder      {}", report.folder.display())?;
    let kind = if report.held_out { "kept aside" } else { "of the training itself" };
    writeln!(out, "rows        {}, measured on {} {kind}", report.rows, report.evaluated_rows)?;
    writeln!(out, "iterations  {}", report.iterations)?;
    Ok(report.evaluation.print(out)?)
}
