//! Transaction ids: UUIDv7 (RFC 9562), so that ids sort by time and never meet one made in another cluster.

use crate::pg::types;

/// Microseconds between 1970-01-01 and 2000-01-01, where the server's clock starts.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

pub fn new_transaction_id() -> [u8; 16] {
    uuid_v7(types::now() + POSTGRES_EPOCH, types::random_bytes())
}

/// 48 bits of milliseconds, 12 bits of the fraction below, the rest random.
fn uuid_v7(unix_micros: i64, random: [u8; 8]) -> [u8; 16] {
    let millis = unix_micros.div_euclid(1000) as u64;
    let fraction = (unix_micros.rem_euclid(1000) as u64 * 4096 / 1000) as u16;
    let mut id = [0u8; 16];
    id[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    id[6..8].copy_from_slice(&(0x7000 | fraction).to_be_bytes());
    id[8..].copy_from_slice(&random);
    id[8] = id[8] & 0x3F | 0x80;
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_version_variant_and_time() {
        let id = uuid_v7(1_700_000_000_123_999, [0xFF; 8]);
        assert_eq!(id[..6], 1_700_000_000_123u64.to_be_bytes()[2..]);
        assert_eq!(id[6] >> 4, 7);
        assert_eq!(id[8] >> 6, 2);
    }

    #[test]
    fn ids_sort_by_time_below_the_millisecond() {
        assert!(uuid_v7(1_000_001, [0xFF; 8]) < uuid_v7(1_000_002, [0; 8]));
        assert!(uuid_v7(1_000_999, [0xFF; 8]) < uuid_v7(1_001_000, [0; 8]));
    }
}
