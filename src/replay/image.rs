//! A row's image as jsonb is stored: the members of an object, as they lie there.

const COUNT: u32 = 0x0FFF_FFFF;
const LENGTH: u32 = 0x0FFF_FFFF;
const IS_OFFSET: u32 = 0x8000_0000;
const TYPE: u32 = 0x7000_0000;
const NUMERIC: u32 = 0x1000_0000;
const CONTAINER: u32 = 0x5000_0000;

/// The members of a jsonb object, in the order the server keeps them in: by length of key, then bytewise.
pub(super) struct Members<'d> {
    document: &'d [u8],
    count: usize,
    next: usize,
    key_end: usize,
    value_end: usize,
}

pub(super) struct Member<'d> {
    pub key: &'d [u8],
    /// What the value is, as jsonb says it.
    pub kind: u32,
    pub value: &'d [u8],
}

fn word(document: &[u8], index: usize) -> u32 {
    let bytes = &document[4 * index..4 * index + 4];
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl<'d> Members<'d> {
    /// Of a document without its varlena header.
    pub fn of(document: &'d [u8]) -> Members<'d> {
        let count = (word(document, 0) & COUNT) as usize;
        let mut members = Members { document, count, next: 0, key_end: 0, value_end: 0 };
        for entry in 0..count {
            members.value_end = members.end(entry, members.value_end);
        }
        members
    }

    /// Where the data of an entry ends, after the end of the one before.
    fn end(&self, entry: usize, before: usize) -> usize {
        let header = word(self.document, 1 + entry);
        let length = (header & LENGTH) as usize;
        if header & IS_OFFSET != 0 { length } else { before + length }
    }
}

impl<'d> Iterator for Members<'d> {
    type Item = Member<'d>;

    fn next(&mut self) -> Option<Member<'d>> {
        if self.next == self.count {
            return None;
        }
        let data = 4 * (1 + 2 * self.count);
        let key_end = self.end(self.next, self.key_end);
        let key = &self.document[data + self.key_end..data + key_end];
        let value_end = self.end(self.count + self.next, self.value_end);
        let kind = word(self.document, 1 + self.count + self.next) & TYPE;
        let start =
            if kind == NUMERIC || kind == CONTAINER { self.value_end.next_multiple_of(4) } else { self.value_end };
        let value = &self.document[data + start..data + value_end];
        (self.next, self.key_end, self.value_end) = (self.next + 1, key_end, value_end);
        Some(Member { key, kind, value })
    }
}
