//! Which model and which of its versions a request asks for, and which model answers if it names
//! none.

use std::borrow::Cow;

use wire::ModelIndexEntry;

use crate::percent;

/// A model that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model<'a> {
    /// Its name; empty for the default model.
    pub name: Cow<'a, str>,
    /// Which version of it.
    pub version: Version<'a>,
}

/// The version that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version<'a> {
    /// The newest version.
    Latest,
    /// The version of that number.
    Number(u64),
    /// The version with this label.
    Label(Cow<'a, str>),
}

impl<'a> Version<'a> {
    /// Reads a version: a number, or else a label.
    pub fn read(text: Cow<'a, str>) -> Self {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if is_number => Self::Number(number),
            Ok(_) | Err(_) => Self::Label(text),
        }
    }

    /// The same as an owned value, independent of the text that it was read from.
    pub fn into_owned(self) -> Version<'static> {
        match self {
            Self::Latest => Version::Latest,
            Self::Number(number) => Version::Number(number),
            Self::Label(label) => Version::Label(Cow::Owned(label.into_owned())),
        }
    }
}

impl<'a> Model<'a> {
    /// The model that answers if none is named.
    pub const DEFAULT: Model<'static> = Model::latest("");

    /// The newest version of a model.
    pub const fn latest(name: &'a str) -> Self {
        Self { name: Cow::Borrowed(name), version: Version::Latest }
    }

    /// Whether the picture decides between the photo model and the digit model.
    pub fn is_auto(&self) -> bool {
        self.name == AUTO && self.version == Version::Latest
    }

    /// The key under which an index of models lists it; see [`keys`].
    pub fn key(&self) -> Cow<'_, str> {
        match &self.version {
            Version::Latest => Cow::Borrowed(&self.name),
            Version::Number(number) => Cow::Owned(format!("{}/{number}", self.name)),
            Version::Label(label) => Cow::Owned(label_key(&self.name, label)),
        }
    }

    /// The same as an owned value, independent of the text that it was read from.
    pub fn into_owned(self) -> Model<'static> {
        Model { name: Cow::Owned(self.name.into_owned()), version: self.version.into_owned() }
    }
}

/// Every key under which a request may ask for a version: the name of the model alone, with the
/// number, and with each label. A label may look like a number, so labels have keys of their own.
pub fn keys(entry: &ModelIndexEntry) -> impl Iterator<Item = String> {
    let name = &entry.name;
    let number = format!("{name}/{}", entry.version);
    [name.clone(), number].into_iter().chain(entry.labels.iter().map(|l| label_key(name, l)))
}

fn label_key(name: &str, label: &str) -> String {
    format!("{name}/labels/{label}")
}

/// A name and the text that follows it.
pub(crate) type NameIn<'a> = (Cow<'a, str>, &'a str);

/// A name in a path: everything up to the next of `ends`, at least one character. `None` if it is
/// empty, in malformed percent encoding, or no valid name of a model. The ends are ASCII.
pub(crate) fn name_in<'a>(text: &'a str, ends: &[u8]) -> Option<NameIn<'a>> {
    let end = text.bytes().position(|byte| ends.contains(&byte)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = percent::decode_text(name)?;
    is_name(&name).then_some((name, rest))
}

/// Whether this can be the name of a model or a label: names are folders, in a path of two levels.
pub fn is_name(name: &str) -> bool {
    // Most names are ASCII, which shows without decoding characters.
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'/';
    let is_bad = |letter: char| letter == '/' || letter.is_control();
    !name.is_empty() && (name.bytes().all(is_plain) || !name.chars().any(is_bad))
}

/// The name that leaves the choice to the picture; see [`Model::is_auto`].
pub const AUTO: &str = "auto";

/// Models that requests fall back to, the preferred one first.
const PREFERRED: [&str; 2] = ["mobilenet_v2", "mnist"];

/// The rank of a model among those that requests fall back to: the photo model, then the digit
/// model, then those that take images, then the others, each by name.
///
/// The order is total: the first of a whole fleet is also the first of every worker that has it.
pub fn preference(name: &str, takes_images: bool) -> impl Ord + use<'_> {
    let rank = PREFERRED.iter().position(|known| *known == name);
    (rank.unwrap_or(PREFERRED.len()), !takes_images, name)
}

/// The model for requests that name none, chosen from the ready ones: their names, and whether they
/// take images.
pub fn default_model<'a>(ready: impl Iterator<Item = (&'a str, bool)>) -> Option<&'a str> {
    ready.min_by_key(|(name, takes_images)| preference(name, *takes_images)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_choice_is_the_pictures_where_no_version_is_named() {
        assert!(Model::latest(AUTO).is_auto());
        assert!(!Model::latest("mnist").is_auto() && !Model::DEFAULT.is_auto());
        let versioned = Model { version: Version::Number(1), ..Model::latest(AUTO) };
        assert!(!versioned.is_auto(), "a model of that name may have versions");
    }

    #[test]
    fn a_version_is_a_number_or_a_label() {
        for (text, expected) in [
            ("1", Version::Number(1)),
            ("007", Version::Number(7)),
            ("+1", Version::Label("+1".into())),
            ("stable", Version::Label("stable".into())),
            ("99999999999999999999", Version::Label("99999999999999999999".into())),
        ] {
            assert_eq!(Version::read(text.into()), expected, "{text}");
        }
    }

    #[test]
    fn a_request_finds_what_the_index_has() {
        let entry = ModelIndexEntry {
            name: "m".to_owned(),
            version: "7".to_owned(),
            state: "READY".to_owned(),
            reason: String::new(),
            labels: vec!["8".to_owned()],
            takes_images: false,
        };
        let keys: Vec<String> = keys(&entry).collect();
        let has = |version| keys.contains(&Model { name: "m".into(), version }.key().into_owned());
        assert!(has(Version::Latest) && has(Version::Number(7)) && has(Version::Label("8".into())));
        assert!(!has(Version::Number(8)) && !has(Version::Label("7".into())));
    }

    #[test]
    fn the_default_is_the_photo_model_then_the_digits_then_images_then_any() {
        let default = |models: &[(&'static str, bool)]| default_model(models.iter().copied());
        assert_eq!(
            default(&[("mnist", true), ("a", true), ("mobilenet_v2", true)]),
            Some("mobilenet_v2")
        );
        assert_eq!(default(&[("a", true), ("mnist", true)]), Some("mnist"));
        assert_eq!(default(&[("a", false), ("c", true), ("b", true)]), Some("b"));
        assert_eq!(default(&[("b", false), ("a", false)]), Some("a"));
        assert_eq!(default(&[]), None);
    }

    proptest! {
        #[test]
        fn the_default_of_a_fleet_is_the_default_of_every_worker_that_has_it(
            all in proptest::collection::btree_map("mnist|mobilenet_v2|[a-d]", any::<bool>(), 1..6),
            has in proptest::collection::vec(any::<bool>(), 6),
        ) {
            let fleet: Vec<(&str, bool)> = all.iter().map(|(name, images)| (&**name, *images)).collect();
            let default = default_model(fleet.iter().copied()).expect("there is one");
            let worker = fleet.iter().zip(&has).filter(|((name, _), has)| **has || *name == default);
            prop_assert_eq!(default_model(worker.map(|(model, _)| *model)), Some(default));
        }
    }
}
