//! A live row as capture would store it: for comparing the record with the table.

use std::ops::Range;

use pgrx::pg_sys;

use super::key::plan_of_history;
use crate::capture::image;
use crate::error::{Error, OrRaise};
use crate::pg::datum::bytes_datum;
use crate::pg::function::{Call, composite_argument};
use crate::pg::types;

/// `threadline.row_image(row)` → jsonb
pub fn row_image(call: &mut Call) -> pg_sys::Datum {
    part_of_image(call, "row_image", |image| Some(image.json))
}

/// `threadline.row_exact(row)` → jsonb
pub fn row_exact(call: &mut Call) -> pg_sys::Datum {
    part_of_image(call, "row_exact", |image| image.exact)
}

/// `threadline.object_keys(object)`: its names, sorted bytewise; NULL when it has none.
pub fn object_keys(call: &mut Call) -> pg_sys::Datum {
    let mut keys = call.value(0).map(types::object_keys).unwrap_or_default();
    keys.sort_unstable();
    call.return_value((!keys.is_empty()).then(|| types::text_array(keys)))
}

fn part_of_image(
    call: &mut Call,
    function: &'static str,
    part: impl FnOnce(image::Image) -> Option<Range<usize>>,
) -> pg_sys::Datum {
    if call.value(0).is_none() {
        return call.return_null();
    }
    let made = composite_argument(call, 0).ok_or(Error::NotATableRow { function }).and_then(|(relid, row)| {
        let plan = plan_of_history(relid)?;
        let mut bytes = Vec::new();
        let image = image::with_settings_of(&plan, || image::whole_image(&plan, &row, &mut bytes))?;
        Ok(part(image).map(|place| bytes_datum(&bytes[place])))
    });
    call.return_value(made.or_raise())
}

/// `threadline.row_key(row)` → (row_key, key)
pub fn row_key(call: &mut Call) -> pg_sys::Datum {
    if call.value(0).is_none() {
        return call.return_null();
    }
    let function = "row_key";
    let (row_key, text) = composite_argument(call, 0)
        .ok_or(Error::NotATableRow { function })
        .and_then(|(relid, row)| {
            let plan = plan_of_history(relid)?;
            let mut bytes = Vec::new();
            let key = image::with_settings_of(&plan, || image::key(&plan, &row, &mut bytes))?;
            Ok((key.row_key, bytes_datum(&bytes[key.text])))
        })
        .or_raise();
    call.return_row(&mut [Some(row_key.into()), Some(text)])
}
