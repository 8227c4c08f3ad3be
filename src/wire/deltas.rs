//! Sets of lease ids, delta-coded: the first as it is, then the differences. A node's renewals lie close together,
//! so that most ids take one byte or two.

use super::{
    DecodeError,
    field::{Fields, Path},
};
use crate::model::LeaseId;

/// Codes ascending ids, none twice. Ids out of order have no code and must not be given.
#[must_use]
pub fn ids_to_deltas(ids: &[LeaseId]) -> Vec<u64> {
    debug_assert!(ids.is_sorted_by(|a, b| a < b), "renewals ascend, none twice");
    let mut before = 0;
    ids.iter()
        .map(|id| {
            let delta = id.0.saturating_sub(before);
            before = id.0;
            delta
        })
        .collect()
}

/// Reads ids back: ascending, none twice, none 0.
///
/// # Errors
/// A difference of 0, or a sum beyond every id.
pub fn ids_from_deltas(deltas: &[u64]) -> Result<Vec<LeaseId>, DecodeError> {
    Ok(Fields::check(|fields| {
        fields.lease_ids(&Path::Root.field("renewals"), deltas)
    })?)
}

impl Fields {
    pub(crate) fn lease_ids(&mut self, path: &Path<'_>, deltas: &[u64]) -> Option<Vec<LeaseId>> {
        let mut last = 0_u64;
        let mut ids = Vec::with_capacity(deltas.len());
        for (index, &delta) in deltas.iter().enumerate() {
            last = match last.checked_add(delta) {
                Some(id) if delta > 0 && i64::try_from(id).is_ok() => id,
                _ => {
                    return self.refuse(
                        &path.item(index),
                        format_args!("adds {delta}, which leads to no lease id"),
                    );
                }
            };
            ids.push(LeaseId(last));
        }
        Some(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back() {
        let ids = [1, 2, 700, (1 << 62) + 5].map(LeaseId);
        assert_eq!(ids_to_deltas(&ids), [1, 1, 698, (1 << 62) + 5 - 700]);
        assert_eq!(ids_from_deltas(&ids_to_deltas(&ids)).unwrap(), ids);
        assert_eq!(ids_from_deltas(&[]).unwrap(), []);
    }

    #[test]
    fn deltas_that_lead_to_no_id_are_refused() {
        for deltas in [&[0][..], &[5, 0], &[u64::MAX], &[1 << 62, 1 << 62], &[1, u64::MAX]] {
            assert!(ids_from_deltas(deltas).is_err(), "{deltas:?}");
        }
    }
}
