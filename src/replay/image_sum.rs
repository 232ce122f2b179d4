//! What a row's image comes to as a number: a sum over its columns, so that the image before an update is known from the one after it
//! and the old values of what changed.

use std::hash::Hasher;

use rustc_hash::FxHasher;

use super::image::{Member, Members};

impl Member<'_> {
    fn hash(&self) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write(self.key);
        hasher.write_u32(self.kind);
        hasher.write(self.value);
        hasher.finish()
    }
}

/// Of an image, and of the image that it was before values of it changed, the old ones being given.
pub fn of_update(new: &[u8], old_values: Option<&[u8]>) -> [u64; 2] {
    let mut changed = old_values.map(Members::of).into_iter().flatten().peekable();
    let (mut after, mut before) = (0u64, 0u64);
    for member in Members::of(new) {
        let hash = member.hash();
        after = after.wrapping_add(hash);
        let in_order = |key: &[u8]| (key.len(), key) < (member.key.len(), member.key);
        while let Some(gone) = changed.next_if(|changed| in_order(changed.key)) {
            before = before.wrapping_add(gone.hash());
        }
        let was = changed.next_if(|changed| changed.key == member.key).map_or(hash, |changed| changed.hash());
        before = before.wrapping_add(was);
    }
    for gone in changed {
        before = before.wrapping_add(gone.hash());
    }
    [before, after]
}

/// Both as one value of a query.
pub fn bytes_of([before, after]: [u64; 2]) -> [u8; 16] {
    (u128::from(before) << 64 | u128::from(after)).to_ne_bytes()
}

pub fn of_bytes(bytes: &[u8]) -> Option<[u64; 2]> {
    let both = u128::from_ne_bytes(bytes.try_into().ok()?);
    Some([(both >> 64) as u64, both as u64])
}

pub fn of_image(image: &[u8]) -> u64 {
    Members::of(image).fold(0, |sum, member| sum.wrapping_add(member.hash()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::jsonb::{self, Keys};

    /// A jsonb object of texts and integers, without the varlena header.
    fn object(members: &[(&str, i64)]) -> Vec<u8> {
        let keys = Keys::new(members.iter().map(|(name, _)| name.as_bytes()));
        let mut out = Vec::new();
        let varlena = jsonb::write_object(&mut out, &keys, |place, out| match members[place].1 {
            text if text % 2 == 0 => jsonb::push_string(out, format!("text {text}").as_bytes()),
            number => jsonb::push_integer(out, number),
        })
        .expect("a small one");
        out[varlena.start + 4..varlena.end].to_vec()
    }

    #[test]
    fn the_image_before_follows_from_the_changes() {
        let before = object(&[("a", 7), ("id", 1), ("name", 12), ("longer", 100_001)]);
        let after = object(&[("a", 9), ("id", 1), ("name", 14), ("longer", 100_001)]);
        let changes = object(&[("a", 7), ("name", 12)]);
        assert_eq!(of_update(&after, Some(&changes)), [of_image(&before), of_image(&after)]);
        assert_eq!(of_update(&after, None), [of_image(&after); 2]);
        assert_ne!(of_image(&before), of_image(&after));
        let gone = object(&[("zz", 3)]);
        assert_ne!(of_update(&after, Some(&gone))[0], of_image(&after));
    }

    #[test]
    fn sums_come_apart_again() {
        for sums in [[u64::MAX, 7], [0, 1 << 63]] {
            assert_eq!(of_bytes(&bytes_of(sums)), Some(sums));
        }
    }

    #[test]
    fn where_a_value_stands_does_not_matter() {
        let alone = object(&[("number", 5)]);
        let beside = object(&[("b", 12), ("number", 5)]);
        let other = object(&[("b", 12)]);
        assert_eq!(of_image(&beside), of_image(&alone).wrapping_add(of_image(&other)));
    }
}
