//! The training data: what the query returns from SQLite, CSV files included.
//!
//! The database is opened read-only and CSV files become temporary tables, so training changes
//! nothing. A query is a program that may never end, so rows, bytes, memory and time are bounded,
//! including those of SQLite.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, limits::Limit, types::ValueRef};

use super::Bounds;
use super::lexer::{Complaint, place_of};
use super::statement::Statement;
use crate::{Error, repository::Cell, train::invalid};

/// Maximum bytes of all cells that are trained on, and of a CSV file.
const MAX_BYTES: u64 = 1 << 30;
/// Maximum bytes of one text, and of the result of one function.
const MAX_TEXT: i32 = 1 << 20;
/// Maximum bytes of a pattern that texts are compared with.
const MAX_PATTERN: i32 = 1000;
/// Maximum bytes that SQLite may take; larger sorts spill to temporary files.
const MAX_HEAP: u64 = 1 << 30;
/// SQLite instructions between two checks of the clock: a fraction of a millisecond.
const STEPS: i32 = 10_000;
/// Rows of a CSV file between two checks of the clock.
const ROWS: usize = 1024;
/// Table for the rows of a CSV file until it is known which columns are numeric.
const RAW: &str = "rows of a csv file";

/// A CSV file and the name of the table it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CsvTable {
    /// The name of the table in queries.
    pub(super) name: String,
    /// The CSV file that it is read from.
    pub(super) path: PathBuf,
}

/// Rows of named columns; `None` is NULL.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    /// The names of the columns, in order.
    pub(super) names: Vec<String>,
    /// Cells in column order.
    pub(super) rows: Vec<Vec<Option<Cell>>>,
}

impl std::str::FromStr for CsvTable {
    type Err = String;

    /// Reads `name=path`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.to_owned(), path: path.into() })
            }
            _ => Err("write TABLE=FILE, as iris=data/iris.csv".to_owned()),
        }
    }
}

/// Opens the database read-only; without one, the CSV files are all there is.
pub(super) fn open(path: Option<&Path>, bounds: &Bounds) -> Result<Connection, Error> {
    let Some(path) = path else {
        let open = Connection::open_in_memory().and_then(|opened| bounded(opened, bounds));
        return open.map_err(|error| Error::Invalid(error.to_string()));
    };
    if !path.is_file() {
        return Err(invalid(path, "there is no such database"));
    }
    let open = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let connection = bounded(connection, bounds)?;
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| invalid(path, told(&error, bounds)))
}

/// Sets SQLite's limits.
fn bounded(mut connection: Connection, bounds: &Bounds) -> rusqlite::Result<Connection> {
    let bounds = bounds.clone();
    connection.progress_handler(STEPS, Some(move || bounds.is_over()))?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_TEXT)?;
    // Between two checks of the clock, a pattern may be compared with a whole text.
    connection.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MAX_PATTERN)?;
    connection.pragma_update(
        None,
        "hard_heap_limit",
        i64::try_from(MAX_HEAP).unwrap_or(i64::MAX),
    )?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// SQLite's message, or that of the limit if it is about one.
fn told(error: &rusqlite::Error, bounds: &Bounds) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => bounds.overrun(),
        Some(ErrorCode::OutOfMemory) => {
            format!("SQLite needs more than {MAX_HEAP} bytes: select fewer or shorter values")
        }
        Some(ErrorCode::TooBig) => format!("a value is longer than {MAX_TEXT} bytes"),
        _ => error.to_string(),
    }
}

/// Imports a CSV file with a header as a temporary table; a column of numbers becomes numeric.
pub(super) fn import(
    connection: &Connection,
    table: &CsvTable,
    bounds: &Bounds,
) -> Result<usize, Error> {
    import_rows(connection, table, bounds).map_err(|refusal| {
        let message = match refusal {
            Refusal::Sql(error) => told(&error, bounds),
            Refusal::Data(message) => message,
        };
        invalid(&table.path, message)
    })
}

fn import_rows(
    connection: &Connection,
    table: &CsvTable,
    bounds: &Bounds,
) -> Result<usize, Refusal> {
    let data = |error: &dyn std::fmt::Display| Refusal::Data(error.to_string());
    let file = File::open(&table.path).map_err(|error| data(&error))?;
    let mut reader = csv::Reader::from_reader(file.take(MAX_BYTES));
    let header = reader.headers().map_err(|error| data(&error))?.clone();
    if header.is_empty() || header.iter().any(|name| name.trim().is_empty()) {
        return Err(Refusal::Data("the first line must name every column".to_owned()));
    }
    let mut is_numeric = vec![true; header.len()];
    let columns: Vec<String> = (0..header.len()).map(|at| format!("c{at}")).collect();
    let raw = quoted(RAW);
    connection
        .execute_batch(&format!("BEGIN; CREATE TEMP TABLE {raw} ({})", columns.join(", ")))?;
    let marks = vec!["nullif(trim(?), '')"; columns.len()].join(", ");
    let mut insert = connection.prepare(&format!("INSERT INTO {raw} VALUES ({marks})"))?;
    let mut rows = 0;
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| data(&error))? {
        rows += 1;
        if rows > bounds.rows {
            return Err(Refusal::Data(bounds.too_many_rows()));
        }
        if rows % ROWS == 0 && bounds.is_over() {
            return Err(Refusal::Data(bounds.overrun()));
        }
        let is_number = |value: &str| value.is_empty() || value.parse::<f64>().is_ok();
        for (is_numeric, value) in is_numeric.iter_mut().zip(&record) {
            *is_numeric &= is_number(value.trim());
        }
        insert.execute(rusqlite::params_from_iter(&record))?;
    }
    if reader.get_ref().limit() == 0 {
        return Err(Refusal::Data(format!("longer than {MAX_BYTES} bytes")));
    }
    let typed = header.iter().zip(&is_numeric).map(|(name, is_numeric)| {
        format!("{} {}", quoted(name.trim()), if *is_numeric { "REAL" } else { "TEXT" })
    });
    let (name, typed) = (quoted(&table.name), typed.collect::<Vec<_>>().join(", "));
    drop(insert);
    connection.execute_batch(&format!(
        "CREATE TEMP TABLE {name} ({typed});
         INSERT INTO {name} SELECT * FROM temp.{raw};
         DROP TABLE temp.{raw};
         COMMIT"
    ))?;
    Ok(rows)
}

/// Runs the query of `statement`, which came from the file `path` with contents `text`.
pub(super) fn query(
    connection: &Connection,
    statement: &Statement,
    path: &Path,
    text: &str,
    bounds: &Bounds,
) -> Result<Frame, Error> {
    select(connection, &statement.query, bounds).map_err(|error| {
        let (offset, message) = match error {
            Refusal::Sql(rusqlite::Error::SqlInputError { msg, offset, .. }) => {
                (usize::try_from(offset).unwrap_or(0), msg)
            }
            Refusal::Sql(rusqlite::Error::MultipleStatement) => {
                (0, "the file holds one statement: remove what follows the query".to_owned())
            }
            Refusal::Sql(other) => (0, told(&other, bounds)),
            Refusal::Data(message) => (0, message),
        };
        let (offset, message) = match message.strip_prefix("no such table: ") {
            // SQLite gives no offset for a table.
            Some(table) => (statement.query.find(table).unwrap_or(0), tables(connection, &message)),
            None if message.starts_with("no such column: ") => {
                (offset, columns(connection, &message))
            }
            None => (offset, message),
        };
        let place = place_of(text, statement.query_start + offset);
        invalid(path, Complaint { place, message })
    })
}

enum Refusal {
    Sql(rusqlite::Error),
    Data(String),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

fn select(connection: &Connection, query: &str, bounds: &Bounds) -> Result<Frame, Refusal> {
    let mut statement = connection.prepare(query)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            let message = format!("two columns are named {name}: name one of them with AS");
            return Err(Refusal::Data(message));
        }
    }
    let mut rows = Vec::new();
    let mut bytes = 0;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        if rows.len() >= bounds.rows {
            return Err(Refusal::Data(bounds.too_many_rows()));
        }
        let cells = (0..names.len()).map(|i| cell(row.get_ref(i)?, &names[i]));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        bytes += size_of::<Vec<Option<Cell>>>()
            + cells.iter().map(|cell| size(cell.as_ref())).sum::<usize>();
        if bytes as u64 > MAX_BYTES {
            let fix = "add LIMIT, or select fewer columns";
            return Err(Refusal::Data(format!("more than {MAX_BYTES} bytes of data: {fix}")));
        }
        rows.push(cells);
    }
    if rows.is_empty() {
        return Err(Refusal::Data("the query returns no rows".to_owned()));
    }
    Ok(Frame { names, rows })
}

/// Bytes that a cell takes.
fn size(cell: Option<&Cell>) -> usize {
    let text = if let Some(Cell::Text(text)) = cell { text.len() } else { 0 };
    size_of::<Option<Cell>>() + text
}

fn cell(value: ValueRef<'_>, column: &str) -> Result<Option<Cell>, Refusal> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(number) => Ok(Some(Cell::Number(number as f64))),
        ValueRef::Real(number) if number.is_finite() => Ok(Some(Cell::Number(number))),
        ValueRef::Real(_) => {
            Err(Refusal::Data(format!("column {column} holds an infinite number")))
        }
        ValueRef::Text(text) => Ok(Some(Cell::Text(String::from_utf8_lossy(text).into_owned()))),
        ValueRef::Blob(_) => {
            Err(Refusal::Data(format!("column {column} holds bytes: select numbers and texts")))
        }
    }
}

/// Tables and views, those of CSV files included.
const TABLES: &str = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')
                      UNION SELECT name FROM sqlite_temp_master";

/// The first twenty names that a query finds, as a list.
fn names(connection: &Connection, sql: &str) -> rusqlite::Result<String> {
    let mut statement = connection.prepare(&format!("{sql} LIMIT 20"))?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    Ok(names.collect::<Result<Vec<_>, _>>()?.join(", "))
}

/// SQLite's message about a missing column, with the columns that the tables have.
fn columns(connection: &Connection, message: &str) -> String {
    let sql = format!("SELECT DISTINCT c.name FROM ({TABLES}) t, pragma_table_info(t.name) c");
    let columns = names(connection, &sql).unwrap_or_default();
    format!("{message}; the tables have {columns}")
}

/// SQLite's message about a missing table, with the tables there are.
fn tables(connection: &Connection, message: &str) -> String {
    let tables = names(connection, &format!("{TABLES} ORDER BY name")).unwrap_or_default();
    let have =
        if tables.is_empty() { "there are none".to_owned() } else { format!("there are {tables}") };
    format!("{message}; {have}: name a file with --db, or import one with --csv TABLE=FILE")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::train::sql::statement;

    fn bounds() -> Bounds {
        Bounds::new(Duration::from_mins(10), 1000)
    }

    fn run(csv: &str, select: &str) -> Result<Frame, String> {
        run_within(csv, select, &bounds())
    }

    fn run_within(csv: &str, select: &str, bounds: &Bounds) -> Result<Frame, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        std::fs::write(&path, csv).unwrap();
        let connection = open(None, bounds).unwrap();
        let table = CsvTable { name: "t".to_owned(), path };
        import(&connection, &table, bounds).map_err(|e| e.to_string())?;
        let text = format!("CREATE MODEL m OPTIONS(model_type='linear_reg') AS\n{select}");
        let statement = statement::parse(&text).unwrap();
        query(&connection, &statement, Path::new("m.sql"), &text, bounds).map_err(|e| e.to_string())
    }

    #[test]
    fn numbers_texts_and_gaps_of_a_csv_file_keep_their_kind() {
        let frame = run("a,b b\n1, x\n2.5,\n", "SELECT * FROM t").unwrap();
        assert_eq!(frame.names, ["a", "b b"]);
        let text = Some(Cell::Text("x".to_owned()));
        let expected =
            vec![vec![Some(Cell::Number(1.0)), text], vec![Some(Cell::Number(2.5)), None]];
        assert_eq!(frame.rows, expected);
    }

    #[test]
    fn sqlites_complaints_name_the_place_in_the_file() {
        let refused = |select: &str| run("a,b\n1,2\n", select).unwrap_err();
        let missing = refused("SELECT a,\n  wrong FROM t");
        assert!(missing.contains("m.sql: line 3, column 3: no such column: wrong"), "{missing}");
        assert!(missing.contains("the tables have a, b"), "{missing}");
        let table = refused("SELECT * FROM u");
        assert!(
            table.contains("line 2, column 15: no such table: u") && table.contains("there are t"),
            "{table}"
        );
        assert!(refused("SELECT a, a FROM t").contains("AS"));
        assert!(refused("SELECT * FROM t WHERE a > 9").contains("no rows"));
        assert!(refused("SELECT * FROM t; DROP TABLE t").contains("one statement"));
        assert!(refused("WITH x AS (SELECT 1) DELETE FROM t").contains("no rows"));
        for header in ["a,\n1,2\n", "", "\n\n"] {
            let refused = run(header, "SELECT * FROM t").unwrap_err();
            assert!(refused.contains("name every column"), "{refused}");
        }
        assert!(run("a,b\n1\n", "SELECT * FROM t").unwrap_err().contains("t.csv"));
    }

    #[test]
    fn a_database_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.sqlite");
        let writable = Connection::open(&path).unwrap();
        writable.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        drop(writable);
        let connection = open(Some(&path), &bounds()).unwrap();
        let text = "CREATE MODEL m OPTIONS(model_type='linear_reg') AS WITH x AS (SELECT 1)\
                    DELETE FROM t";
        let statement = statement::parse(text).unwrap();
        let error =
            query(&connection, &statement, Path::new("m.sql"), text, &bounds()).unwrap_err();
        assert!(error.to_string().contains("readonly"), "{error}");
        assert!(open(Some(&dir.path().join("none.sqlite")), &bounds()).is_err());
        std::fs::write(dir.path().join("text"), "not a database, but long enough to be read so")
            .unwrap();
        assert!(open(Some(&dir.path().join("text")), &bounds()).is_err());
    }

    #[test]
    fn a_query_that_never_ends_is_stopped() {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                       SELECT i, i AS j FROM n";
        let brief = Bounds::new(Duration::from_millis(50), 1000);
        let count = format!("SELECT count(*) AS a FROM ({endless})");
        let error = run_within("a\n1\n", &count, &brief).unwrap_err();
        assert!(error.contains("--max-time"), "{error}");
        let error = run("a\n1\n", endless).unwrap_err();
        assert!(error.contains("more than 1000 rows") && error.contains("--max-rows"), "{error}");
    }

    #[test]
    fn what_is_imported_is_bounded_too() {
        let csv = "a\n".to_owned() + &"1\n".repeat(1001);
        let error = run(&csv, "SELECT a FROM t").unwrap_err();
        assert!(error.contains("t.csv: more than 1000 rows"), "{error}");
        let over = Bounds::new(Duration::ZERO, 100_000);
        let csv = "a\n".to_owned() + &"1\n".repeat(20_000);
        assert!(run_within(&csv, "SELECT a FROM t", &over).unwrap_err().contains("--max-time"));
    }

    #[test]
    fn no_function_makes_a_huge_value() {
        for expression in ["hex(zeroblob(500000000))", "printf('%.*c', 500000000, 'x')"] {
            let error = run("a\n1\n", &format!("SELECT {expression} AS b FROM t")).unwrap_err();
            assert!(error.contains("longer than 1048576 bytes"), "{expression}: {error}");
        }
    }
}
