//! The compact form of records that are written for every transaction.
//!
//! ```text
//! sheaf   = 1, count, base, texts, member × count      1 is the version; '{' would be JSON
//! texts   = count, text × count                        what members share, each written once
//! member  = length, fields
//! ```
//! Fields follow each other without tags, in an order that belongs to the version:
//!
//! | field | form |
//! |---|---|
//! | whole number | LEB128, at most 10 bytes; signed ones zigzag |
//! | real | how many of its bytes follow (0 to 8), big-endian from the sign on; the rest are 0 |
//! | text | length, UTF-8 |
//! | shared text | 0 and the text, or its position in `texts` from 1 on |
//! | one of several | its position in the declaration, a byte: new ones are declared last |
//! | list | count, elements |
//! | id | 0 and 16 bytes if it is 32 lower-case hexadecimal digits, or length (1 to 128), UTF-8 |
//! | hash | 0 and 32 bytes if it is 64 such digits, or length + 1, UTF-8 |
//!
//! Whatever the bytes are, reading them ends in a value or in [`Damaged`], and takes no more memory
//! than a fixed multiple of theirs.

/// The first byte.
pub(super) const VERSION: u8 = 1;
/// Texts shared by one sheaf at most; more stand where they are needed.
const SHARED_MAX: usize = 64;
/// Longest shared text in bytes: names and codes.
const SHARED_BYTES_MAX: usize = 128;
const REAL_BYTES: usize = size_of::<f64>();

/// What the bytes are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged(pub(super) &'static str);

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not {}", self.0)
    }
}

type Result<T> = std::result::Result<T, Damaged>;

/// Writes a sheaf, member by member.
pub(super) struct Packer<'a> {
    base: i64,
    count: u64,
    texts: Vec<&'a str>,
    members: Vec<u8>,
    member: Vec<u8>,
}

impl<'a> Packer<'a> {
    /// A sheaf whose instants are written as distances from `base`; `bytes` is a guess.
    pub fn new(base: i64, bytes: usize) -> Self {
        let (members, member) = (Vec::with_capacity(bytes), Vec::with_capacity(1 << 10));
        Self { base, count: 0, texts: Vec::with_capacity(16), members, member }
    }

    /// The fields written since the last call are a member.
    pub fn end_member(&mut self) {
        put_varint(&mut self.members, self.member.len() as u64);
        self.members.extend_from_slice(&self.member);
        self.member.clear();
        self.count += 1;
    }

    pub fn into_bytes(mut self) -> Vec<u8> {
        let head = &mut self.member;
        assert!(head.is_empty(), "fields that belong to no member");
        head.push(VERSION);
        put_varint(head, self.count);
        put_varint(head, zigzag(self.base));
        put_varint(head, self.texts.len() as u64);
        for text in &self.texts {
            put_text(head, text);
        }
        self.members.splice(0..0, self.member);
        self.members
    }

    pub fn byte(&mut self, value: u8) {
        self.member.push(value);
    }

    pub fn whole(&mut self, value: u64) {
        put_varint(&mut self.member, value);
    }

    pub fn signed(&mut self, value: i64) {
        put_varint(&mut self.member, zigzag(value));
    }

    /// Microseconds of an instant.
    pub fn instant(&mut self, micros: i64) {
        self.signed(micros.wrapping_sub(self.base));
    }

    pub fn real(&mut self, value: f64) {
        let bits = value.to_bits();
        let length = REAL_BYTES - (bits.trailing_zeros() / 8).min(REAL_BYTES as u32) as usize;
        self.member.push(length as u8);
        self.member.extend_from_slice(&bits.to_be_bytes()[..length]);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.member.extend_from_slice(bytes);
    }

    pub fn text(&mut self, text: &str) {
        put_text(&mut self.member, text);
    }

    pub fn shared(&mut self, text: &'a str) {
        // The very same text of the same member's plan, mostly; then a few bytes to compare.
        let position = self.texts.iter().position(|known| *known == text);
        match position {
            Some(position) => self.whole(position as u64 + 1),
            None if self.texts.len() < SHARED_MAX && text.len() <= SHARED_BYTES_MAX => {
                self.texts.push(text);
                self.whole(self.texts.len() as u64);
            }
            None => {
                self.whole(0);
                self.text(text);
            }
        }
    }

    pub fn id(&mut self, id: &str) {
        put_id(&mut self.member, id);
    }

    pub fn hash(&mut self, hash: &str) {
        if let Some(raw) = from_hex::<32>(hash.as_bytes()) {
            self.byte(0);
            self.raw(&raw);
        } else {
            self.whole(hash.len() as u64 + 1);
            self.raw(hash.as_bytes());
        }
    }
}

/// The bytes of an id; no two ids have the same.
pub(super) fn put_id(bytes: &mut Vec<u8>, id: &str) {
    if let Some(raw) = from_hex::<16>(id.as_bytes()) {
        bytes.push(0);
        bytes.extend_from_slice(&raw);
    } else {
        bytes.push(u8::try_from(id.len()).expect("ids have at most 128 bytes"));
        bytes.extend_from_slice(id.as_bytes());
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_varint(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

pub(super) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// `N` bytes from as many pairs of lower-case digits, and from nothing else.
fn from_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut raw = [0; N];
    for (byte, pair) in raw.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(raw)
}

/// A sheaf that is read.
#[derive(Debug)]
pub(super) struct Sheaf<'a> {
    pub count: u64,
    base: i64,
    texts: Vec<&'a str>,
    members: &'a [u8],
}

impl<'a> Sheaf<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let (count, mut rest) = Self::header(bytes)?;
        let base = rest.signed()?;
        let texts = rest.list(Unpacker::text)?;
        Ok(Self { count, base, texts, members: rest.bytes })
    }

    /// How many members it has, without looking at them.
    pub fn count_of(bytes: &'a [u8]) -> Result<u64> {
        Ok(Self::header(bytes)?.0)
    }

    fn header(bytes: &'a [u8]) -> Result<(u64, Unpacker<'a>)> {
        let mut rest = Unpacker { bytes, texts: &[], base: 0 };
        if rest.byte()? != VERSION {
            return Err(Damaged("of a version that is known"));
        }
        let count = rest.whole()?;
        if count == 0 || count > bytes.len() as u64 {
            return Err(Damaged("a plausible number of members"));
        }
        Ok((count, rest))
    }

    /// Reads every member.
    pub fn members<T>(&self, read: impl Fn(&mut Unpacker<'_>) -> Result<T>) -> Result<Vec<T>> {
        let mut rest = self.rest();
        let members = (0..self.count).map(|_| self.member(&mut rest, &read));
        let members = members.collect::<Result<_>>()?;
        rest.end()?;
        Ok(members)
    }

    /// Reads the member at a position.
    pub fn nth<T>(
        &self,
        position: u64,
        read: impl Fn(&mut Unpacker<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut rest = self.rest();
        if position >= self.count {
            return Err(Damaged("so many members"));
        }
        for _ in 0..position {
            let length = rest.length()?;
            rest.take(length)?;
        }
        self.member(&mut rest, &read)
    }

    fn rest(&self) -> Unpacker<'_> {
        Unpacker { bytes: self.members, texts: &self.texts, base: self.base }
    }

    fn member<T>(
        &self,
        rest: &mut Unpacker<'_>,
        read: &impl Fn(&mut Unpacker<'_>) -> Result<T>,
    ) -> Result<T> {
        let length = rest.length()?;
        let mut member = Unpacker { bytes: rest.take(length)?, ..self.rest() };
        let value = read(&mut member)?;
        member.end()?;
        Ok(value)
    }
}

/// Reads fields.
pub(super) struct Unpacker<'a> {
    bytes: &'a [u8],
    texts: &'a [&'a str],
    base: i64,
}

impl<'a> Unpacker<'a> {
    /// Fields that stand alone.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, texts: &[], base: 0 }
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Damaged("long enough"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    pub fn end(&self) -> Result<()> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Damaged("at its end where it should be")) }
    }

    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn whole(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damaged("a number of 64 bits"))
    }

    pub fn whole32(&mut self) -> Result<u32> {
        u32::try_from(self.whole()?).map_err(|_| Damaged("a number of 32 bits"))
    }

    pub fn signed(&mut self) -> Result<i64> {
        let value = self.whole()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Microseconds of an instant.
    pub fn instant(&mut self) -> Result<i64> {
        Ok(self.signed()?.wrapping_add(self.base))
    }

    pub fn real(&mut self) -> Result<f64> {
        let length = usize::from(self.byte()?);
        let mut bytes = [0; REAL_BYTES];
        let significant = bytes.get_mut(..length).ok_or(Damaged("a real"))?;
        significant.copy_from_slice(self.take(length)?);
        Ok(f64::from_bits(u64::from_be_bytes(bytes)))
    }

    /// A length or count of what follows, each a byte at least.
    pub fn length(&mut self) -> Result<usize> {
        let length = usize::try_from(self.whole()?).unwrap_or(usize::MAX);
        if length > self.bytes.len() { Err(Damaged("long enough")) } else { Ok(length) }
    }

    pub fn text(&mut self) -> Result<&'a str> {
        let length = self.length()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| Damaged("UTF-8"))
    }

    pub fn shared(&mut self) -> Result<&'a str> {
        match self.whole()? {
            0 => self.text(),
            n => {
                let position = usize::try_from(n - 1).unwrap_or(usize::MAX);
                self.texts.get(position).copied().ok_or(Damaged("a shared text"))
            }
        }
    }

    pub fn list<T>(&mut self, read: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let count = self.length()?;
        (0..count).map(|_| read(self)).collect()
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> Result<T> {
        let position = usize::from(self.byte()?);
        all.get(position).copied().ok_or(Damaged("one of the values that are known"))
    }

    pub fn id(&mut self) -> Result<String> {
        match usize::from(self.byte()?) {
            0 => Ok(hex::encode(self.take(16)?)),
            length => {
                let text = std::str::from_utf8(self.take(length)?);
                Ok(text.map_err(|_| Damaged("UTF-8"))?.to_owned())
            }
        }
    }

    pub fn hash(&mut self) -> Result<String> {
        match self.length()? {
            0 => Ok(hex::encode(self.take(32)?)),
            length => {
                let text = std::str::from_utf8(self.take(length - 1)?);
                Ok(text.map_err(|_| Damaged("UTF-8"))?.to_owned())
            }
        }
    }

    pub fn bytes4(&mut self) -> Result<[u8; 4]> {
        self.array()
    }
}
