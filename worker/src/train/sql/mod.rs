//! `worker train sql`: a model from a SQL statement.
//!
//! The flow: [`statement`] reads `CREATE MODEL … AS SELECT …`, [`frame`] runs the query in SQLite,
//! [`encode`] turns the rows into numbers, [`fit`] trains on most of them, [`evaluation`] measures
//! on the rest, and the next version folder of the model appears in the repository.

mod bounds;
mod encode;
mod evaluation;
mod fit;
mod frame;
mod lexer;
mod statement;

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use bounds::Bounds;
use candle_core::{Device, Tensor};
use candle_nn::ops::softmax;
use encode::Examples;
use evaluation::Evaluation;
use fit::{Layer, Limits, Objective};
use frame::CsvTable;
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus, seq::SliceRandom};
use serde::Serialize;
use statement::{Existing, ModelType, Options, Statement};

use super::{directory, invalid};
use crate::{
    Error,
    repository::{self, Manifest, Name, Table, file, version_number},
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
next version is written beside the old ones. CREATE MODEL IF NOT EXISTS does nothing where there is one.";

/// Maximum bytes of a statement.
const MAX_STATEMENT: u64 = 1 << 20;
/// The longest time that a training may be given, in seconds: a week.
const LONGEST: u64 = 7 * 24 * 3600;

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
    /// Time limit for reading the data and learning from it.
    #[arg(long, env = "WORKER_MAX_TIME", default_value = "10m", value_name = "TIME")]
    max_time: humantime::Duration,
    /// Limit on the rows of a CSV file, and on those that the query returns.
    #[arg(long, env = "WORKER_MAX_ROWS", default_value_t = 10_000_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    max_rows: u32,
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
    /// Rows measured on; these are training rows if none could be kept aside.
    evaluated_rows: usize,
    held_out: bool,
    iterations: usize,
    evaluation: Evaluation,
}

/// Runs `worker train sql`.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    let path = &args.statement;
    let bounds = args.bounds()?;
    let text = read(path)?;
    let statement = statement::parse(&text).map_err(|complaint| invalid(path, complaint))?;
    let folder = args.models.join(&statement.name);
    match (repository::newest(&folder)?, statement.existing) {
        (Some(newest), Existing::Kept) => return kept(&statement.name, newest, args.json, out),
        (Some(newest), Existing::Refused) => {
            let fix = "write CREATE OR REPLACE MODEL to add the next one";
            return Err(invalid(&folder, format!("version {newest} exists: {fix}")));
        }
        (None, _) | (_, Existing::Replaced) => {}
    }
    let examples = read_examples(args, &statement, &text, &bounds)?;
    let layer = train(args, &statement, &examples, &bounds)?;
    let name = match statement.existing {
        Existing::Replaced => Name::Next,
        Existing::Refused | Existing::Kept => Name::Exactly("1"),
    };
    let folder = write(&folder, name, &examples, &layer.0, &text)?;
    let version = folder.file_name().and_then(|name| version_number(name.to_str()?));
    let report = Report { version: version.unwrap_or(1), folder, ..layer.1 };
    print(&report, args.json, out)
}

/// Checks that `text` is a statement that [`run`] would carry out; the error names the place and
/// the fix.
pub fn check(text: &str) -> Result<(), Error> {
    match statement::parse(text) {
        Ok(_) => Ok(()),
        Err(complaint) => Err(Error::Invalid(complaint.to_string())),
    }
}

impl Args {
    fn bounds(&self) -> Result<Bounds, Error> {
        let time = std::time::Duration::from(self.max_time);
        if time.is_zero() || time.as_secs() > LONGEST {
            return Err(Error::Invalid(
                "--max-time must be above zero, and at most 7 days".to_owned(),
            ));
        }
        Ok(Bounds::new(time, self.max_rows as usize))
    }
}

/// Reads the statement, which may come through a pipe.
fn read(path: &Path) -> Result<String, Error> {
    let bytes = File::open(path).and_then(|file| file::bounded(file, MAX_STATEMENT));
    let bytes = bytes.map_err(Error::file(path))?;
    String::from_utf8(bytes).map_err(|_| invalid(path, "not UTF-8"))
}

/// Reports that `IF NOT EXISTS` found an existing model.
fn kept(model: &str, version: u64, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    if json {
        let said = serde_json::json!({"model": model, "version": version, "trained": false});
        serde_json::to_writer_pretty(&mut *out, &said)?;
        return Ok(writeln!(out)?);
    }
    Ok(writeln!(out, "model       {model} version {version} exists, nothing was trained")?)
}

fn read_examples(
    args: &Args,
    statement: &Statement,
    text: &str,
    bounds: &Bounds,
) -> Result<Examples, Error> {
    let path = &args.statement;
    let connection = frame::open(args.db.as_deref(), bounds)?;
    for (i, table) in args.csv.iter().enumerate() {
        if args.csv[..i].iter().any(|other| other.name.eq_ignore_ascii_case(&table.name)) {
            let message =
                format!("--csv gives the table {} twice: name one of them anew", table.name);
            return Err(Error::Invalid(message));
        }
        let rows = frame::import(&connection, table, bounds)?;
        tracing::info!(table = table.name, rows, "imported");
    }
    let frame = frame::query(&connection, statement, path, text, bounds)?;
    encode::encode(&frame, statement).map_err(|complaint| invalid(path, complaint))
}

fn train(
    args: &Args,
    statement: &Statement,
    examples: &Examples,
    bounds: &Bounds,
) -> Result<(Layer, Report), Error> {
    let rows = examples.targets.len();
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(args.seed));
    let kept = share(rows, statement.options.eval_fraction);
    let (evaluated, trained) = order.split_at(kept);
    let layer = fit_rows(examples, trained, &statement.options, bounds)?;
    let evaluated = if kept > 0 { evaluated } else { trained };
    let evaluation = evaluate(examples, evaluated, &layer)?;
    if !layer.is_finite()? {
        let fix = "scale the columns in the SELECT, or set l2_reg";
        return Err(invalid(&args.statement, format!("the fit diverged: {fix}")));
    }
    if !evaluation.is_finite() {
        let why = "the values of the label lie too far apart";
        let told = format!("the fit has no finite measure, {why}: scale them in the SELECT");
        return Err(invalid(&args.statement, told));
    }
    let report = Report {
        model: statement.name.clone(),
        // Known once it is written.
        version: 0,
        folder: PathBuf::new(),
        rows,
        evaluated_rows: evaluated.len(),
        held_out: kept > 0,
        iterations: layer.iterations,
        evaluation,
    };
    Ok((layer, report))
}

/// Number of rows to keep aside: none if that would leave nothing to learn from.
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
fn fit_rows(
    examples: &Examples,
    rows: &[usize],
    options: &Options,
    bounds: &Bounds,
) -> Result<Layer, Error> {
    let features = features(examples, rows)?;
    let limits = Limits { max_iterations: options.max_iterations, l2_reg: options.l2_reg, bounds };
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

/// Writes the version folder: manifest, weights, labels, and the statement that made them.
fn write(
    model: &Path,
    name: Name<'_>,
    examples: &Examples,
    layer: &Layer,
    sql: &str,
) -> Result<PathBuf, Error> {
    let manifest = manifest(&examples.table)?;
    let tensors = HashMap::from([
        ("weight".to_owned(), layer.weight.clone()),
        ("bias".to_owned(), layer.bias.clone()),
    ]);
    let labels: String = examples.classes.iter().flat_map(|c| [c.as_str(), "\n"]).collect();
    let mut others = vec![("training.sql", sql.as_bytes())];
    if !labels.is_empty() {
        others.push(("labels.txt", labels.as_bytes()));
    }
    directory::install_model(model, name, &manifest, &tensors, &others)
}

fn manifest(table: &Table) -> Result<Manifest, Error> {
    #[derive(Serialize)]
    struct Text<'a> {
        architecture: &'a str,
        max_batch_size: usize,
        table: &'a Table,
    }
    let text = Text { architecture: "linear", max_batch_size: 1024, table };
    let text = toml::to_string(&text).map_err(|error| Error::Invalid(error.to_string()))?;
    Manifest::parse(&text).map_err(|error| Error::Invalid(error.to_string()))
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
