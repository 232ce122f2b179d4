//! Exact decimal numbers of up to 38 digits: sums that take back what they added come out to the last digit.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// `units` · 10^-`scale`. Equal by value, whatever the scale.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Decimal {
    units: i128,
    scale: u16,
}

/// More digits than 38 would be needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

const MOST_DIGITS: u16 = 38;

impl Decimal {
    pub const ZERO: Decimal = Decimal { units: 0, scale: 0 };

    pub fn integer(value: i64) -> Decimal {
        Decimal { units: i128::from(value), scale: 0 }
    }

    /// A numeric as the server stores it: base 10,000 digits behind a short or a long header. None for NaN and infinities.
    pub fn of_numeric(payload: &[u8]) -> Option<Result<Decimal, TooLong>> {
        let header = u16::from_le_bytes([payload[0], payload[1]]);
        let (negative, scale, weight, digits) = if header & 0xC000 == 0xC000 {
            return None;
        } else if header & 0x8000 != 0 {
            let weight = i32::from(header & 0x3F) | if header & 0x40 != 0 { !0x3F } else { 0 };
            (header & 0x2000 != 0, (header & 0x1F80) >> 7, weight, &payload[2..])
        } else {
            let weight = i32::from(i16::from_le_bytes([payload[2], payload[3]]));
            (header & 0xC000 == 0x4000, header & 0x3FFF, weight, &payload[4..])
        };
        Some(Decimal::of_digits(negative, scale, weight, digits).ok_or(TooLong))
    }

    fn of_digits(negative: bool, scale: u16, weight: i32, digits: &[u8]) -> Option<Decimal> {
        if scale > MOST_DIGITS {
            return None;
        }
        let (mut units, mut place) = (0i128, weight);
        for digit in digits.as_chunks::<2>().0 {
            units = units.checked_mul(10_000)?.checked_add(i128::from(i16::from_le_bytes(*digit)))?;
            place -= 1;
        }
        // The last digit stands for 10,000^(place + 1).
        let exponent = 4 * (place + 1) + i32::from(scale);
        let power = 10i128.checked_pow(exponent.unsigned_abs())?;
        units = if exponent >= 0 { units.checked_mul(power)? } else { units / power };
        Some(Decimal { units: if negative { -units } else { units }, scale })
    }

    /// What `Display` writes.
    pub fn parse(text: &str) -> Option<Decimal> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let units: i128 = format!("0{whole}{fraction}").parse().ok()?;
        Some(Decimal { units: if negative { -units } else { units }, scale: fraction.len().try_into().ok()? })
    }

    fn at_scale(self, scale: u16) -> Option<i128> {
        self.units.checked_mul(10i128.checked_pow(u32::from(scale - self.scale))?)
    }

    pub fn plus(self, other: Decimal) -> Result<Decimal, TooLong> {
        let scale = self.scale.max(other.scale);
        let sum = || self.at_scale(scale)?.checked_add(other.at_scale(scale)?);
        sum().map(|units| Decimal { units, scale }).ok_or(TooLong)
    }

    pub fn minus(self, other: Decimal) -> Result<Decimal, TooLong> {
        self.plus(Decimal { units: -other.units, ..other })
    }

    /// Divided by a count, to 16 digits more than it has.
    pub fn quotient(self, count: i64) -> Decimal {
        let scale = (self.scale + 16).min(MOST_DIGITS);
        let Some(units) = self.at_scale(scale) else {
            return Decimal { units: self.units / i128::from(count), ..self };
        };
        let count = i128::from(count);
        let half = if units < 0 { -(count / 2) } else { count / 2 };
        Decimal { units: (units + half) / count, scale }
    }

    pub fn times(self, count: i64) -> Result<Decimal, TooLong> {
        self.units.checked_mul(i128::from(count)).map(|units| Decimal { units, ..self }).ok_or(TooLong)
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        if self.scale == other.scale {
            return self.units.cmp(&other.units);
        }
        let parts = |number: &Decimal| {
            let one = 10i128.pow(u32::from(number.scale));
            let fraction = number.units.rem_euclid(one);
            (number.units.div_euclid(one), fraction * 10i128.pow(u32::from(MOST_DIGITS - number.scale)))
        };
        parts(self).cmp(&parts(other))
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Decimal) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl std::fmt::Display for Decimal {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        let digits = format!("{:0width$}", self.units.unsigned_abs(), width = usize::from(self.scale) + 1);
        let (whole, fraction) = digits.split_at(digits.len() - usize::from(self.scale));
        let sign = if self.units < 0 { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        write!(out, "{sign}{whole}{point}{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn what_is_taken_back_leaves_nothing() {
        let sum = ["0.10", "0.20", "-7", "123456789012345678.000001"].map(d);
        let total = sum.iter().try_fold(Decimal::ZERO, |total, part| total.plus(*part)).unwrap();
        assert_eq!(total.to_string(), "123456789012345671.300001");
        let rest = sum.iter().try_fold(total, |total, part| total.minus(*part)).unwrap();
        assert_eq!(rest, Decimal::ZERO);
    }

    #[test]
    fn numbers_compare_by_value() {
        assert_eq!(d("1.0"), d("1.000"));
        for (less, more) in [("-1.5", "-1.25"), ("-0.1", "0"), ("0.999", "1"), ("99999999999999999999", "1e0")] {
            if let Some(more) = Decimal::parse(more) {
                assert!(d(less) < more, "{less} {more}");
            }
        }
        assert!(d("99999999999999999999.5") > d("0.00000000000000000001"));
    }

    #[test]
    fn stored_numerics_are_read() {
        // Short headers: 0x8000 with scale and weight; digits of base 10,000.
        let short = |header: u16, digits: &[i16]| {
            let mut bytes = header.to_le_bytes().to_vec();
            digits.iter().for_each(|digit| bytes.extend(digit.to_le_bytes()));
            Decimal::of_numeric(&bytes).unwrap().unwrap().to_string()
        };
        assert_eq!(short(0x8000 | 1, &[1, 2345]), "12345");
        assert_eq!(short(0x8000 | 2 << 7, &[12, 3400]), "12.34");
        assert_eq!(short(0xA000 | 2 << 7 | 0x7F, &[3400]), "-0.34");
        assert_eq!(short(0x8000 | 2, &[7]), "700000000");
        assert_eq!(short(0x8000 | 3 << 7, &[]), "0.000");
        assert!(Decimal::of_numeric(&0xC000u16.to_le_bytes()).is_none());
    }

    #[test]
    fn too_long_numbers_are_refused() {
        let most = Decimal { units: i128::MAX, scale: 0 };
        assert_eq!(most.plus(d("1")).err(), Some(TooLong));
        assert_eq!(most.plus(d("0.1")).err(), Some(TooLong));
        assert_eq!(Decimal::parse("1e5"), None);
        assert_eq!(Decimal::parse("."), None);
    }
}
