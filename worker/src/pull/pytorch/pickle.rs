//! Just enough of Python's pickle to find the tensors that `torch.save` has written.
//!
//! A pickle is a program for a stack machine that builds objects; here it builds descriptions of
//! them. Nothing in it is ever run. Objects are kept in one list and refer to each other by their
//! index, so that neither depth nor sharing costs anything: no program makes this reader recurse,
//! copy what it has, or keep more than a bounded number of objects.

use std::collections::HashMap;

/// Objects of the largest checkpoint that is read; a state dict has some thousands.
const MAX_OBJECTS: usize = 1_000_000;

/// An index into the list of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(usize);

/// Key and value of a dict.
pub(super) type Pair = (Id, Id);

/// What an object is, as far as tensors are concerned.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Object {
    Integer(i64),
    Text(String),
    /// Module and name, which are texts.
    Class(Id, Id),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<Pair>),
    /// What a callable would return for its arguments.
    Call {
        callable: Id,
        arguments: Id,
    },
    /// What the file keeps outside of the pickle.
    Persistent(Id),
    /// Floats, truth values, bytes: of no use here.
    Other,
}

/// A pickle that was read to its end.
#[derive(Debug)]
pub(super) struct Pickle {
    objects: Vec<Object>,
    root: Id,
}

impl Pickle {
    /// Reads the objects of a pickle.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine { bytes, ..Machine::default() };
        while machine.step()? {}
        let root = machine.pop()?;
        Ok(Self { objects: machine.objects, root })
    }

    /// The pickled object.
    pub(super) fn root(&self) -> &Object {
        self.get(self.root)
    }

    /// The object at an index.
    pub(super) fn get(&self, id: Id) -> &Object {
        &self.objects[id.0]
    }

    /// The items of a tuple.
    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        if let Object::Tuple(items) = self.get(id) { Some(items) } else { None }
    }

    /// The text at an index; `None` if there is something else.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        if let Object::Text(text) = self.get(id) { Some(text) } else { None }
    }

    /// The integer at an index; `None` if it is negative or there is something else.
    pub(super) fn count(&self, id: Id) -> Option<usize> {
        if let Object::Integer(number) = self.get(id) {
            usize::try_from(*number).ok()
        } else {
            None
        }
    }

    /// Module and name of a class.
    pub(super) fn class(&self, id: Id) -> Option<(&str, &str)> {
        let Object::Class(module, name) = self.get(id) else { return None };
        Some((self.text(*module)?, self.text(*name)?))
    }
}

/// The machine while it runs.
#[derive(Debug, Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    /// Executes one instruction; false after the last.
    fn step(&mut self) -> Result<bool, String> {
        let code = self.byte()?;
        match code {
            b'.' => return Ok(false),
            0x80 => drop(self.byte()?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            // No tensor depends on the state that an object gets ('b').
            b'0' | b'b' => drop(self.pop()?),
            b'1' => drop(self.above_mark()?),
            b'2' => {
                let last = self.last()?;
                self.take_up(last)?;
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(code)?,
            b'N' | 0x88 | 0x89 => self.push(Object::Other)?,
            b'K' | b'M' | b'J' | 0x8a | b'G' => self.number(code)?,
            b'X' | 0x8c | 0x8d | b'T' | b'U' | b'B' | b'C' | 0x8e => self.string(code)?,
            b')' | b't' | 0x85..=0x87 => self.make_tuple(code)?,
            b']' => self.push(Object::List(Vec::new()))?,
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b'l' => {
                let items = self.above_mark()?;
                self.push(Object::List(items))?;
            }
            b'd' => {
                let items = self.above_mark()?;
                self.push(Object::Dict(pairs(&items)?))?;
            }
            b'a' | b'e' | b's' | b'u' => self.add(code)?,
            b'c' | 0x93 => self.make_class(code)?,
            b'Q' => {
                let name = self.pop()?;
                self.push(Object::Persistent(name))?;
            }
            b'R' | 0x81 => self.call()?,
            _ => return Err(format!("its pickle has the instruction {code:#04x}, unknown here")),
        }
        Ok(true)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or("its pickle is cut off")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of a few bytes, sign-extended if `is_signed`.
    fn integer(&mut self, count: usize, is_signed: bool) -> Result<i64, String> {
        let bytes = self.take(count)?;
        let is_negative = is_signed && bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if is_negative { 0xff } else { 0 }; 8];
        let room = wide.get_mut(..count).ok_or("its pickle holds a huge number")?;
        room.copy_from_slice(bytes);
        Ok(i64::from_le_bytes(wide))
    }

    fn length(&mut self, count: usize) -> Result<usize, String> {
        let length = self.integer(count, false)?;
        usize::try_from(length).map_err(|_| "its pickle is cut off".to_owned())
    }

    fn push(&mut self, object: Object) -> Result<(), String> {
        let id = self.make(object)?;
        self.stack.push(id);
        Ok(())
    }

    /// Adds an object to the list, but not to the stack.
    fn make(&mut self, object: Object) -> Result<Id, String> {
        if self.objects.len() >= MAX_OBJECTS {
            return Err(format!("its pickle makes more than {MAX_OBJECTS} objects"));
        }
        self.objects.push(object);
        Ok(Id(self.objects.len() - 1))
    }

    /// Pushes an object that is already in the list: this makes none, but the stack grows.
    fn take_up(&mut self, id: Id) -> Result<(), String> {
        self.stack.push(id);
        if self.stack.len() > MAX_OBJECTS {
            return Err(format!("its pickle takes up more than {MAX_OBJECTS} objects"));
        }
        Ok(())
    }

    /// The last mark: instructions may take only from the stack above it.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn last(&self) -> Result<Id, String> {
        let above = &self.stack[self.floor()..];
        above.last().copied().ok_or_else(|| "its pickle takes what is not there".to_owned())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let last = self.last()?;
        self.stack.pop();
        Ok(last)
    }

    fn above_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("its pickle ends what it has not begun")?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, code: u8) -> Result<(), String> {
        let key = match code {
            b'q' | b'h' => u32::from(self.byte()?),
            b'r' | b'j' => u32::try_from(self.integer(4, false)?).unwrap_or(u32::MAX),
            _ => u32::try_from(self.memo.len()).unwrap_or(u32::MAX),
        };
        if matches!(code, b'h' | b'j') {
            let known = self.memo.get(&key).ok_or("its pickle names what it has not kept")?;
            return self.take_up(*known);
        }
        self.memo.insert(key, self.last()?);
        if self.memo.len() > MAX_OBJECTS {
            return Err(format!("its pickle keeps more than {MAX_OBJECTS} objects"));
        }
        Ok(())
    }

    fn number(&mut self, code: u8) -> Result<(), String> {
        let number = match code {
            b'K' => self.integer(1, false)?,
            b'M' => self.integer(2, false)?,
            b'J' => self.integer(4, true)?,
            0x8a => {
                let count = usize::from(self.byte()?);
                self.integer(count, true)?
            }
            _ => {
                self.take(8)?;
                return self.push(Object::Other);
            }
        };
        self.push(Object::Integer(number))
    }

    fn string(&mut self, code: u8) -> Result<(), String> {
        let length = match code {
            0x8c | b'U' | b'C' => self.length(1)?,
            0x8d | 0x8e => self.length(8)?,
            _ => self.length(4)?,
        };
        let bytes = self.take(length)?;
        let object = match std::str::from_utf8(bytes) {
            Ok(text) if !matches!(code, b'B' | b'C' | 0x8e) => Object::Text(text.to_owned()),
            _ => Object::Other,
        };
        self.push(object)
    }

    fn make_tuple(&mut self, code: u8) -> Result<(), String> {
        let items = match code {
            b')' => Vec::new(),
            b't' => self.above_mark()?,
            _ => {
                let count = usize::from(code - 0x84);
                let start = self.stack.len().checked_sub(count);
                let start = start.filter(|start| *start >= self.floor());
                self.stack.split_off(start.ok_or("its pickle takes what is not there")?)
            }
        };
        self.push(Object::Tuple(items))
    }

    /// Adds one item, or all above the mark, to the list or dict below them.
    fn add(&mut self, code: u8) -> Result<(), String> {
        let items = match code {
            b'a' => vec![self.pop()?],
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.above_mark()?,
        };
        let into = self.last()?;
        match (&mut self.objects[into.0], code) {
            (Object::List(list), b'a' | b'e') => list.extend(items),
            (Object::Dict(dict), b's' | b'u') => dict.extend(pairs(&items)?),
            // A class of another library that is filled like a list or dict.
            _ => {}
        }
        Ok(())
    }

    fn make_class(&mut self, code: u8) -> Result<(), String> {
        if code == b'c' {
            let (module, name) = (self.line()?, self.line()?);
            let (module, name) = (self.make(Object::Text(module))?, self.make(Object::Text(name))?);
            return self.push(Object::Class(module, name));
        }
        let (name, module) = (self.pop()?, self.pop()?);
        match (&self.objects[module.0], &self.objects[name.0]) {
            (Object::Text(_), Object::Text(_)) => self.push(Object::Class(module, name)),
            _ => Err("its pickle names a class by something else than texts".to_owned()),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n');
        let line = self.take(end.ok_or("its pickle is cut off")?)?;
        let line = String::from_utf8_lossy(line).into_owned();
        self.take(1)?;
        Ok(line)
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let is_text = |id: Id, wanted: &[&str]| {
            let Object::Text(text) = &self.objects[id.0] else { return false };
            wanted.contains(&text.as_str())
        };
        if let Object::Class(module, name) = self.objects[callable.0]
            && is_text(module, &["collections"])
            && is_text(name, &["OrderedDict", "defaultdict"])
        {
            return self.push(Object::Dict(Vec::new()));
        }
        self.push(Object::Call { callable, arguments })
    }
}

fn pairs(items: &[Id]) -> Result<Vec<Pair>, String> {
    let (pairs, rest) = items.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    } else {
        Err("its pickle has a key without a value".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(parts: &[&[u8]]) -> Result<Pickle, String> {
        Pickle::read(&parts.concat())
    }

    #[test]
    fn a_dict_of_numbers_and_texts_is_read_in_every_protocol() {
        for parts in [
            &[&b"\x80\x02}q\0(X\x01\0\0\0aK\x07X\x01\0\0\0bX\x01\0\0\0cu."[..]][..],
            &[&b"\x80\x04\x95\0\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94K\x07\x8c\x01b\x94\x8c\x01c\x94u."
                [..]],
            &[&b"(X\x01\0\0\0aJ\x07\0\0\0X\x01\0\0\0bX\x01\0\0\0cd."[..]],
        ] {
            let pickle = read(parts).unwrap();
            let Object::Dict(pairs) = pickle.root() else { unreachable!("it is a dict") };
            let [(a, seven), (b, c)] = pairs.as_slice() else { unreachable!("of two keys") };
            let text = |id: &Id| pickle.text(*id).unwrap();
            assert_eq!((text(a), text(b), text(c)), ("a", "b", "c"));
            assert_eq!(pickle.count(*seven), Some(7));
        }
    }

    #[test]
    fn numbers_have_their_sign_and_the_longest_are_refused() {
        let number = |bytes: &[u8]| read(&[bytes, b"."]).map(|pickle| pickle.root().clone());
        assert_eq!(number(b"J\xfe\xff\xff\xff"), Ok(Object::Integer(-2)));
        assert_eq!(number(b"M\xfe\xff"), Ok(Object::Integer(65534)));
        assert_eq!(number(b"\x8a\x00"), Ok(Object::Integer(0)));
        assert_eq!(number(b"\x8a\x01\xff"), Ok(Object::Integer(-1)));
        assert!(number(b"\x8a\x09123456789").unwrap_err().contains("huge number"));
    }

    #[test]
    fn depth_and_sharing_cost_nothing() {
        let deep = [b"]".repeat(900_000), b"\x85".repeat(90_000), b".".to_vec()].concat();
        assert!(matches!(Pickle::read(&deep).unwrap().root(), Object::Tuple(_)));
        // Each tuple holds the one before it twice: two to the power of a thousand, if copied.
        let doubled: Vec<u8> = (0..1000).flat_map(|_| *b"q\x002\x86").collect();
        let shared = [b")".to_vec(), doubled, b".".to_vec()].concat();
        assert!(Pickle::read(&shared).is_ok());
        let itself = b"]q\0h\0a.";
        assert!(matches!(read(&[itself]).unwrap().root(), Object::List(items) if items.len() == 1));
    }

    #[test]
    fn what_no_pickle_does_is_refused_in_words() {
        for (bytes, reason) in [
            (&b""[..], "cut off"),
            (b"]", "cut off"),
            (b".", "not there"),
            (b"X\xff\xff\xff\xffa.", "cut off"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.", "cut off"),
            (b"cos", "cut off"),
            (b"(]0.", "not there"),
            (b"](a", "not there"),
            (b"]\x86.", "not there"),
            (b"t.", "not begun"),
            (b"h\x05.", "not kept"),
            (b"}(K\x01u.", "without a value"),
            (b"]]\x93.", "class"),
            (b"i.", "0x69"),
        ] {
            let error = read(&[bytes]).unwrap_err();
            assert!(error.contains(reason), "{bytes:?}: {error}");
        }
        let many = b")".repeat(MAX_OBJECTS + 1);
        assert!(read(&[&many]).unwrap_err().contains("objects"));
        let taken = [b"]q\0".to_vec(), b"h\0".repeat(MAX_OBJECTS + 1)].concat();
        assert!(read(&[&taken]).unwrap_err().contains("objects"));
        for again in [b'2', 0x94] {
            let taken = [&b"]"[..], &vec![again; MAX_OBJECTS + 1]].concat();
            assert!(read(&[&taken]).unwrap_err().contains("objects"));
        }
    }

    #[test]
    fn a_class_is_named_by_its_lines_and_by_two_texts_alike() {
        for program in [&b"ctorch\nSize\n."[..], b"X\x05\0\0\0torchX\x04\0\0\0Size\x93."] {
            let pickle = Pickle::read(program).unwrap();
            assert_eq!(pickle.class(pickle.root), Some(("torch", "Size")));
            assert_eq!(pickle.text(pickle.root), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _read = Pickle::read(&bytes);
        }

        #[test]
        fn no_instructions_make_it_panic(
            codes in proptest::collection::vec(proptest::sample::select(
                &b"(012)}]aesutldQRbq\0h\0N\x85\x86\x87\x81\x93\x94K\x01X\x01\0\0\0a."[..]), 0..80)
        ) {
            let _read = Pickle::read(&codes);
        }
    }
}
