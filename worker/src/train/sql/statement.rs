//! The statement: `CREATE [OR REPLACE] MODEL name OPTIONS(…) AS SELECT …`, as in BigQuery ML.
//!
//! The head is parsed here with errors that name the place and the fix; the query is kept as text
//! with its offset, so that a complaint by SQLite can name its place in the file too.

use super::lexer::{Complaint, Kind, Lexer, Position, Token};

/// A parsed statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    /// The model's name.
    pub(super) name: String,
    /// What happens to an existing model of that name.
    pub(super) existing: Existing,
    /// The settings in OPTIONS.
    pub(super) options: Options,
    /// The query after `AS`, as it was written.
    pub(super) query: String,
    /// Byte of the file at which the query starts.
    pub(super) query_start: usize,
    /// The same place as line and column.
    pub(super) query_place: Position,
}

/// What happens to a model that already exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// It must not exist: `CREATE MODEL`.
    Refused,
    /// It gets another version: `CREATE OR REPLACE MODEL`.
    Replaced,
    /// It stays, and nothing is trained: `CREATE MODEL IF NOT EXISTS`.
    Kept,
}

/// The kinds of model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelType {
    /// Classification: multinomial logistic regression.
    Logistic,
    /// Regression: least squares.
    Linear,
}

/// The settings of a training run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Options {
    /// What is trained.
    pub(super) model_type: ModelType,
    /// Where the model type is given.
    pub(super) model_type_place: Position,
    /// The column to predict.
    pub(super) label: String,
    /// Where the label is given: at OPTIONS if it is left out.
    pub(super) label_place: Position,
    /// Maximum number of passes over the data.
    pub(super) max_iterations: usize,
    /// Weight of the squared coefficients in the loss.
    pub(super) l2_reg: f64,
    /// Share of the rows that is kept for the evaluation.
    pub(super) eval_fraction: f64,
}

/// Beyond this, nothing but the bias is left.
const MAX_L2_REG: f64 = 1e6;
const KNOWN: &str = "model_type, input_label_cols, max_iterations, l2_reg, \
                     data_split_eval_fraction";

/// A value of an option.
#[derive(Debug)]
enum Value {
    Text(String),
    Number(f64),
    Bool,
    List(Vec<String>),
}

/// Reads a whole file.
pub(super) fn parse(text: &str) -> Result<Statement, Complaint> {
    let mut parser = Parser::new(text)?;
    parser.keyword("CREATE", "the statement starts with CREATE MODEL")?;
    let replace = parser.takes_word("OR")?;
    if replace {
        parser.keyword("REPLACE", "write CREATE OR REPLACE MODEL")?;
    }
    parser.keyword("MODEL", "write CREATE MODEL, then the model's name")?;
    let existing = parser.existing(replace)?;
    let name = parser.model_name()?;
    if parser.is_word("TRANSFORM") {
        return parser.fail("TRANSFORM is not supported: compute in the SELECT instead");
    }
    parser.keyword("OPTIONS", "write OPTIONS(model_type='logistic_reg', …) after the name")?;
    let options = parser.options()?;
    parser.keyword("AS", "write AS, then the SELECT that gives the training data")?;
    let (Token { start: query_start, place: query_place, .. }, end) = parser.query(text.len())?;
    let query = text[query_start..end].to_owned();
    Ok(Statement { name, existing, options, query, query_start, query_place })
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, Complaint> {
        let mut lexer = Lexer::new(text);
        let token = lexer.next()?;
        Ok(Self { lexer, token })
    }

    fn advance(&mut self) -> Result<Token, Complaint> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn fail<T>(&self, fix: &str) -> Result<T, Complaint> {
        let message = format!("found {}; {fix}", self.token.kind);
        Err(Complaint { place: self.token.place, message })
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(&self.token.kind, Kind::Word(found) if found.eq_ignore_ascii_case(word))
    }

    fn takes_word(&mut self, word: &str) -> Result<bool, Complaint> {
        let found = self.is_word(word);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn keyword(&mut self, word: &str, fix: &str) -> Result<(), Complaint> {
        if self.takes_word(word)? { Ok(()) } else { self.fail(fix) }
    }

    fn takes_symbol(&mut self, symbol: char) -> Result<bool, Complaint> {
        let found = self.token.kind == Kind::Symbol(symbol);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn symbol(&mut self, symbol: char, fix: &str) -> Result<(), Complaint> {
        if self.takes_symbol(symbol)? { Ok(()) } else { self.fail(fix) }
    }

    /// Reads `IF NOT EXISTS`, which may precede the name.
    fn existing(&mut self, replace: bool) -> Result<Existing, Complaint> {
        if !self.is_word("IF") {
            return Ok(if replace { Existing::Replaced } else { Existing::Refused });
        }
        if replace {
            return self.fail("OR REPLACE and IF NOT EXISTS exclude each other: write one of them");
        }
        for word in ["IF", "NOT", "EXISTS"] {
            self.keyword(word, "write CREATE MODEL IF NOT EXISTS, then the model's name")?;
        }
        Ok(Existing::Kept)
    }

    /// Where the query begins and ends; parentheses around all of it are not part of it.
    fn query(&mut self, end: usize) -> Result<(Token, usize), Complaint> {
        let mut open = 0;
        while self.takes_symbol('(')? {
            open += 1;
        }
        if !self.is_word("SELECT") && !self.is_word("WITH") {
            return self.fail("AS is followed by a SELECT (or a WITH … SELECT)");
        }
        let start = self.token.clone();
        if open == 0 {
            return Ok((start, end));
        }
        let end = self.closing()?;
        for _ in 1..open {
            self.symbol(')', "add the `)` that ends the query")?;
        }
        self.takes_symbol(';')?;
        if self.token.kind == Kind::End {
            Ok((start, end))
        } else {
            self.fail("nothing follows the `)` that ends the query: remove it, or the parentheses")
        }
    }

    /// The byte of the `)` that closes the `(` just before the current token.
    fn closing(&mut self) -> Result<usize, Complaint> {
        let mut depth = 0;
        loop {
            if self.token.kind == Kind::End {
                return self.fail("add the `)` that ends the query");
            }
            let Token { kind, start, .. } = self.advance()?;
            match kind {
                Kind::Symbol('(') => depth += 1,
                Kind::Symbol(')') if depth == 0 => return Ok(start),
                Kind::Symbol(')') => depth -= 1,
                Kind::Symbol(_)
                | Kind::Word(_)
                | Kind::Quoted(_)
                | Kind::Text(_)
                | Kind::Number(_)
                | Kind::End => {}
            }
        }
    }

    /// `name`, `` `name` `` or `dataset.name`, whose last part becomes a folder.
    fn model_name(&mut self) -> Result<String, Complaint> {
        loop {
            let Token { kind, place, .. } = self.advance()?;
            let (Kind::Word(name) | Kind::Quoted(name)) = kind else {
                let message = format!("found {kind}; the model's name stands here");
                return Err(Complaint { place, message });
            };
            if self.takes_symbol('.')? {
                continue;
            }
            let last = name.rsplit('.').next().unwrap_or_default().to_owned();
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if last.is_empty() || last.len() > 100 || !last.chars().all(fits) {
                let message = format!("`{last}` cannot be a folder: use letters, digits, _ and -");
                return Err(Complaint { place, message });
            }
            return Ok(last);
        }
    }

    fn options(&mut self) -> Result<Options, Complaint> {
        let start = self.token.place;
        self.symbol('(', "OPTIONS needs its settings in ( )")?;
        let mut options = OptionsBuilder::default();
        loop {
            if self.takes_symbol(')')? {
                break;
            }
            let Token { kind, place, .. } = self.advance()?;
            let Kind::Word(name) = kind else {
                let message = format!("found {kind}; an option's name stands here: {KNOWN}");
                return Err(Complaint { place, message });
            };
            self.symbol('=', &format!("write {name} = …"))?;
            let value_place = self.token.place;
            let value = self.value()?;
            options.set(&name, place, (value, value_place))?;
            if !self.takes_symbol(',')? {
                self.symbol(')', "options are separated by `,` and end with `)`")?;
                break;
            }
        }
        options.build(start)
    }

    fn value(&mut self) -> Result<Value, Complaint> {
        if self.takes_symbol('[')? {
            let mut items = Vec::new();
            while !self.takes_symbol(']')? {
                let Kind::Text(item) = &self.token.kind else {
                    return self.fail("a list holds texts in quotes, as ['species']");
                };
                items.push(item.clone());
                self.advance()?;
                if !self.takes_symbol(',')? && self.token.kind != Kind::Symbol(']') {
                    return self.fail("items are separated by `,` and the list ends with `]`");
                }
            }
            return Ok(Value::List(items));
        }
        let value = match &self.token.kind {
            Kind::Number(number) => Value::Number(*number),
            Kind::Text(text) => Value::Text(text.clone()),
            Kind::Word(word) if is_truth(word) => Value::Bool,
            Kind::Word(_) | Kind::Quoted(_) | Kind::Symbol(_) | Kind::End => {
                return self.fail("a value is a number, a 'text' or a ['list']");
            }
        };
        self.advance()?;
        Ok(value)
    }
}

fn is_truth(word: &str) -> bool {
    ["true", "false"].iter().any(|truth| word.eq_ignore_ascii_case(truth))
}

#[derive(Default)]
struct OptionsBuilder {
    seen: Vec<String>,
    model_type: Option<(ModelType, Position)>,
    label: Option<(String, Position)>,
    max_iterations: Option<usize>,
    l2_reg: Option<f64>,
    eval_fraction: Option<f64>,
}

impl OptionsBuilder {
    fn set(
        &mut self,
        name: &str,
        place: Position,
        value: (Value, Position),
    ) -> Result<(), Complaint> {
        let (value, value_place) = value;
        let name = name.to_ascii_lowercase();
        if self.seen.contains(&name) {
            return Err(Complaint { place, message: format!("{name} is given twice") });
        }
        let refused = |message: &str| {
            Err(Complaint { place: value_place, message: format!("{name} {message}") })
        };
        match (name.as_str(), value) {
            ("model_type", Value::Text(text)) => match text.to_ascii_lowercase().as_str() {
                "logistic_reg" => self.model_type = Some((ModelType::Logistic, value_place)),
                "linear_reg" => self.model_type = Some((ModelType::Linear, value_place)),
                _ => return refused("is 'logistic_reg' or 'linear_reg'"),
            },
            ("input_label_cols", Value::List(mut items)) if items.len() == 1 => {
                self.label = items.pop().map(|label| (label, value_place));
            }
            ("max_iterations", Value::Number(n))
                if n.fract() == 0.0 && (1.0..=1e6).contains(&n) =>
            {
                self.max_iterations = Some(whole(n));
            }
            ("l2_reg", Value::Number(n)) if (0.0..=MAX_L2_REG).contains(&n) => {
                self.l2_reg = Some(n);
            }
            ("data_split_eval_fraction", Value::Number(n)) if (0.0..=0.9).contains(&n) => {
                self.eval_fraction = Some(n);
            }
            ("model_type", _) => return refused("is 'logistic_reg' or 'linear_reg'"),
            ("input_label_cols", _) => return refused("is a list of one column, as ['species']"),
            ("max_iterations", _) => return refused("is a whole number from 1 to 1000000"),
            ("l2_reg", _) => return refused("is a number from 0 to 1000000"),
            ("data_split_eval_fraction", _) => return refused("is a number from 0 to 0.9"),
            _ => {
                let message = format!("there is no option {name}; known are {KNOWN}");
                return Err(Complaint { place, message });
            }
        }
        self.seen.push(name);
        Ok(())
    }

    fn build(self, place: Position) -> Result<Options, Complaint> {
        let Some((model_type, model_type_place)) = self.model_type else {
            let message = "add model_type='logistic_reg' or model_type='linear_reg'".to_owned();
            return Err(Complaint { place, message });
        };
        let (label, label_place) = self.label.unwrap_or_else(|| ("label".to_owned(), place));
        Ok(Options {
            model_type,
            model_type_place,
            label,
            label_place,
            max_iterations: self.max_iterations.unwrap_or(200),
            l2_reg: self.l2_reg.unwrap_or(0.0),
            eval_fraction: self.eval_fraction.unwrap_or(0.2),
        })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: 1 to 1e6")]
fn whole(number: f64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IRIS: &str = "-- Fisher's flowers\n\
        CREATE OR REPLACE MODEL flowers.iris_model\n\
        OPTIONS(model_type='logistic_reg', input_label_cols=['species'],\n\
                max_iterations=100, l2_reg=1e-3)\n\
        AS SELECT * FROM iris";

    #[test]
    fn the_statement_of_the_iris_model_is_understood() {
        let statement = parse(IRIS).unwrap();
        assert_eq!(statement.name, "iris_model");
        assert_eq!(statement.existing, Existing::Replaced);
        assert_eq!(statement.options.model_type, ModelType::Logistic);
        assert_eq!(statement.options.label, "species");
        assert_eq!(statement.options.max_iterations, 100);
        assert!((statement.options.l2_reg - 1e-3).abs() < 1e-12);
        assert_eq!(statement.query, "SELECT * FROM iris");
        assert_eq!(&IRIS[statement.query_start..], statement.query);
    }

    #[test]
    fn each_mistake_is_told_with_its_place_and_its_fix() {
        for (from, to, place, fix) in [
            ("CREATE", "MAKE", "line 2, column 1", "CREATE MODEL"),
            ("OR REPLACE", "OR", "line 2, column 11", "CREATE OR REPLACE"),
            ("MODEL flowers", "TABLE flowers", "line 2, column 19", "CREATE MODEL"),
            ("flowers.iris_model", "`a/b`", "line 2, column 25", "letters, digits"),
            ("flowers.iris_model", "", "line 3, column 8", "OPTIONS"),
            ("'logistic_reg'", "'boosted_tree'", "line 3, column 20", "'linear_reg'"),
            ("'logistic_reg'", "logistic_reg", "line 3, column 20", "'text'"),
            ("model_type='logistic_reg', ", "", "line 3, column 8", "add model_type"),
            ("['species']", "'species'", "line 3, column 53", "['species']"),
            ("['species']", "['a' 'b']", "line 3, column 58", "`,`"),
            ("max_iterations=100", "max_iterations=0", "line 4, column 16", "1 to 1000000"),
            ("max_iterations=100", "max_iter=100", "line 4, column 1", "max_iterations"),
            ("max_iterations=100", "l2_reg=1", "line 4, column 11", "twice"),
            ("l2_reg=1e-3", "l2_reg=1e300", "line 4, column 28", "0 to 1000000"),
            ("l2_reg=1e-3", "class_weights=TRUE", "line 4, column 21", "no option class_weights"),
            ("l2_reg=1e-3", "l2_reg=TRUE", "line 4, column 28", "0 to 1000000"),
            ("MODEL flowers", "MODEL IF NOT EXISTS flowers", "line 2, column 25", "exclude each"),
            ("SELECT *", "(SELECT *", "line 5, column 23", "add the `)`"),
            (
                "SELECT * FROM iris",
                "(SELECT 1) UNION SELECT 2",
                "line 5, column 15",
                "nothing follows",
            ),
            ("l2_reg=1e-3", "l2_reg=-1", "line 4, column 28", "0 to 1000000"),
            (")\nAS", "\nAS", "line 5, column 1", "`)`"),
            ("\nAS", "\nFROM", "line 5, column 1", "write AS"),
            ("SELECT", "DELETE", "line 5, column 4", "SELECT"),
        ] {
            assert!(IRIS.contains(from), "{from}");
            let error = parse(&IRIS.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.starts_with(place) && error.contains(fix), "{to}: {error}");
        }
    }

    #[test]
    fn a_query_in_parentheses_and_a_model_that_may_exist_are_understood() {
        let statement = |query: &str| {
            let text = IRIS.replace("OR REPLACE MODEL", "MODEL if not exists");
            parse(&text.replace("SELECT * FROM iris", query)).unwrap()
        };
        for (written, query) in [
            ("(SELECT * FROM iris)", "SELECT * FROM iris"),
            ("( ( SELECT (1) ) ) ;", "SELECT (1) "),
            (
                "(WITH a AS (SELECT ')') SELECT * FROM (SELECT 2))",
                "WITH a AS (SELECT ')') SELECT * FROM (SELECT 2)",
            ),
        ] {
            let statement = statement(written);
            assert_eq!(statement.existing, Existing::Kept);
            assert_eq!(statement.query, query);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(?s).{0,120}") {
            let _outcome = parse(&text);
        }

        #[test]
        fn no_damage_to_a_statement_makes_it_panic(
            at in 0..IRIS.len(), piece in "(?s)[\\[\\]()'\"`,=.\\\\*/#é0-9eE-]{0,4}", cut in 0usize..9
        ) {
            let end = (at + cut).min(IRIS.len());
            let _outcome = parse(&[&IRIS[..at], &piece, &IRIS[end..]].concat());
        }
    }
}
