//! A trigger's call, taken apart.

use pgrx::pg_sys;

use super::planner::own_function;
use super::relation::{OpenRelation, Row};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowEvent {
    Insert,
    Update,
    Delete,
}

/// The call of a trigger function by a trigger.
pub struct TriggerCall<'call> {
    data: &'call pg_sys::TriggerData,
}

impl<'call> TriggerCall<'call> {
    /// None unless a trigger made the call.
    pub fn of(fcinfo: &'call pg_sys::FunctionCallInfoBaseData) -> Option<TriggerCall<'call>> {
        // SAFETY: what CALLED_AS_TRIGGER tests: the context node, if any, carries a tag.
        unsafe {
            if fcinfo.context.is_null() || (*fcinfo.context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            Some(TriggerCall { data: &*fcinfo.context.cast::<pg_sys::TriggerData>() })
        }
    }

    /// The event of an AFTER ROW trigger; None for any other kind of trigger.
    pub fn after_row_event(&self) -> Option<RowEvent> {
        let event = self.data.tg_event;
        let after_row = event & pg_sys::TRIGGER_EVENT_ROW != 0
            && event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER;
        if !after_row {
            return None;
        }
        match event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Some(RowEvent::Insert),
            pg_sys::TRIGGER_EVENT_UPDATE => Some(RowEvent::Update),
            pg_sys::TRIGGER_EVENT_DELETE => Some(RowEvent::Delete),
            _ => None,
        }
    }

    pub fn is_before_truncate(&self) -> bool {
        let event = self.data.tg_event;
        event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_TRUNCATE
            && event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE
    }

    pub fn relation(&self) -> pg_sys::Oid {
        // SAFETY: the trigger's relation is open during the call.
        unsafe { (*self.data.tg_relation).rd_id }
    }

    fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: the trigger's relation is open during the call.
        unsafe { (*self.data.tg_relation).rd_att }
    }

    /// The inserted or deleted row, or an updated row's old version.
    pub fn row(&self) -> Row {
        // SAFETY: the tuple is of the trigger's relation and lives during the call.
        unsafe { Row::deform(self.data.tg_trigtuple, self.descriptor()) }
    }

    /// An updated row's new version.
    pub fn new_row(&self) -> Row {
        // SAFETY: as `row`; set for UPDATE.
        unsafe { Row::deform(self.data.tg_newtuple, self.descriptor()) }
    }

    /// Whether a deleted row went on as an inserted one in another partition: an UPDATE that moved it.
    pub fn moved_to_another_partition(&self) -> bool {
        // SAFETY: what ItemPointerIndicatesMovedPartitions tests of the row version's header.
        unsafe {
            let next = (*(*self.data.tg_trigtuple).t_data).t_ctid;
            next.ip_posid == pg_sys::MovedPartitionsOffsetNumber as u16
                && next.ip_blkid.bi_hi == u16::MAX
                && next.ip_blkid.bi_lo == u16::MAX
        }
    }

    /// The xid, with its epoch, that wrote an updated row's old version; None when it is so old that it was frozen.
    pub fn old_version_written_by(&self) -> Option<u64> {
        // SAFETY: the tuple carries the header that the table has (HeapTupleHeaderXminFrozen, …GetRawXmin).
        let xmin = unsafe {
            let header = (*self.data.tg_trigtuple).t_data;
            let frozen = pg_sys::HEAP_XMIN_COMMITTED | pg_sys::HEAP_XMIN_INVALID;
            if u32::from((*header).t_infomask) & frozen == frozen {
                return None;
            }
            (*header).t_choice.t_heap.t_xmin.into_inner()
        };
        // An xid that is not frozen lies within 2^31 of ours, on either side: another session may be ahead.
        let own = super::xact::full_xid();
        Some(own.wrapping_add_signed(i64::from(xmin.wrapping_sub(own as u32) as i32)))
    }

    /// A copy of the row that stays until the transaction ends.
    pub fn keep_row(&self) -> KeptRow {
        super::memory::in_transaction_context(|| {
            // SAFETY: both copies are made in a context that outlives the KeptRow: see there.
            unsafe {
                KeptRow {
                    tuple: pg_sys::heap_copytuple(self.data.tg_trigtuple),
                    descriptor: pg_sys::CreateTupleDescCopy(self.descriptor()),
                }
            }
        })
    }

    /// Whether another trigger of the relation, which calls the same function for every row of the event, comes before
    /// this one, or this one does not fire for every row while another does.
    pub fn is_repeated(&self) -> bool {
        // SAFETY: the relation is open during the call; its trigger description has numtriggers entries.
        unsafe {
            let this = &*self.data.tg_trigger;
            let triggers = (*self.data.tg_relation).trigdesc;
            if triggers.is_null() {
                return false;
            }
            // What TRIGGER_FOR_INSERT and its kin test.
            let event: i16 = match self.data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
                pg_sys::TRIGGER_EVENT_INSERT => pg_sys::TRIGGER_TYPE_INSERT as i16,
                pg_sys::TRIGGER_EVENT_UPDATE => pg_sys::TRIGGER_TYPE_UPDATE as i16,
                _ => pg_sys::TRIGGER_TYPE_DELETE as i16,
            };
            let silent = match pg_sys::SessionReplicationRole as u32 {
                pg_sys::SESSION_REPLICATION_ROLE_REPLICA => pg_sys::TRIGGER_FIRES_ON_ORIGIN,
                _ => pg_sys::TRIGGER_FIRES_ON_REPLICA,
            };
            (0..(*triggers).numtriggers as usize)
                .map(|at| &*(*triggers).triggers.add(at))
                .find(|other| {
                    let enabled = other.tgenabled as u8;
                    other.tgfoid == this.tgfoid
                        && other.tgtype & event != 0
                        && other.tgtype & pg_sys::TRIGGER_TYPE_ROW as i16 != 0
                        && enabled != pg_sys::TRIGGER_DISABLED
                        && enabled != silent
                        && other.tgqual.is_null()
                        && other.tgnattr == 0
                })
                .is_some_and(|first| first.tgoid != this.tgoid)
        }
    }

    /// Whether another trigger of the relation that calls the same function records this TRUNCATE.
    pub fn repeats_truncate(&self) -> bool {
        // SAFETY: the relation is open during the call; the trigger that calls is set.
        unsafe {
            let this = &*self.data.tg_trigger;
            triggers_of(self.data.tg_relation)
                .iter()
                .find(|other| other.tgfoid == this.tgfoid && fires_on_truncate(other))
                .is_some_and(|first| first.tgoid != this.tgoid)
        }
    }

    /// The OIDs of the relation's triggers that call the same function, this one among them.
    pub fn same_function(&self) -> Vec<u32> {
        // SAFETY: the relation is open during the call; the trigger that calls is set.
        unsafe {
            let function = (*self.data.tg_trigger).tgfoid;
            let triggers = triggers_of(self.data.tg_relation).iter();
            triggers.filter(|other| other.tgfoid == function).map(|other| other.tgoid.to_u32()).collect()
        }
    }

    pub fn is_named(&self, name: &core::ffi::CStr) -> bool {
        // SAFETY: set for every call by a trigger.
        unsafe { core::ffi::CStr::from_ptr((*self.data.tg_trigger).tgname) == name }
    }

    /// The number of the command that changed the row: capture may run in a later one, and a trigger on
    /// one row can change another row of the same statement first.
    pub fn command(&self, event: RowEvent) -> i32 {
        // SAFETY: the tuples carry the headers that this transaction wrote.
        unsafe {
            match event {
                RowEvent::Insert => command_of_insert((*self.data.tg_trigtuple).t_data),
                RowEvent::Update => command_of_insert((*self.data.tg_newtuple).t_data),
                RowEvent::Delete => pg_sys::HeapTupleHeaderGetCmax((*self.data.tg_trigtuple).t_data) as i32,
            }
        }
    }
}

/// # Safety
/// The relation is open, and stays so while the slice is in use.
pub(super) unsafe fn triggers_of<'r>(relation: pg_sys::Relation) -> &'r [pg_sys::Trigger] {
    // SAFETY: by the caller's promise; a trigger description has numtriggers entries.
    unsafe {
        match (*relation).trigdesc.as_ref() {
            Some(description) => core::slice::from_raw_parts(description.triggers, description.numtriggers as usize),
            None => &[],
        }
    }
}

/// Whether the trigger is BEFORE TRUNCATE, without a condition, and enabled in this session.
pub(super) fn fires_on_truncate(trigger: &pg_sys::Trigger) -> bool {
    let before_truncate = (pg_sys::TRIGGER_TYPE_TRUNCATE | pg_sys::TRIGGER_TYPE_BEFORE) as i16;
    // SAFETY: a plain variable.
    let silent = match unsafe { pg_sys::SessionReplicationRole } as u32 {
        pg_sys::SESSION_REPLICATION_ROLE_REPLICA => pg_sys::TRIGGER_FIRES_ON_ORIGIN,
        _ => pg_sys::TRIGGER_FIRES_ON_REPLICA,
    };
    let enabled = trigger.tgenabled as u8;
    trigger.tgtype & before_truncate == before_truncate
        && enabled != pg_sys::TRIGGER_DISABLED
        && enabled != silent
        && trigger.tgqual.is_null()
}

/// A row that outlives the trigger's call, but not the transaction: whoever keeps one forgets it when that ends.
pub struct KeptRow {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Drop for KeptRow {
    fn drop(&mut self) {
        // While an error unwinds, the transaction's memory goes with it.
        if !std::thread::panicking() {
            // SAFETY: both were allocated by keep_row, in a context that the transaction's end callbacks still find.
            unsafe {
                pg_sys::heap_freetuple(self.tuple);
                pg_sys::FreeTupleDesc(self.descriptor);
            }
        }
    }
}

impl KeptRow {
    pub fn row(&self) -> Row {
        // SAFETY: both live until the transaction ends.
        unsafe { Row::deform(self.tuple, self.descriptor) }
    }
}

/// # Safety
/// The header is of a row version that the current transaction made.
pub(super) unsafe fn command_of_insert(header: pg_sys::HeapTupleHeader) -> i32 {
    // SAFETY: by the caller's promise; a combined command id is resolved by the server, a plain one is read
    // as it stands (HeapTupleHeaderGetRawCommandId), which also holds for rows that COPY FREEZE wrote.
    unsafe {
        if (*header).t_infomask as u32 & pg_sys::HEAP_COMBOCID != 0 {
            pg_sys::HeapTupleHeaderGetCmin(header) as i32
        } else {
            (*header).t_choice.t_heap.t_field3.t_cid as i32
        }
    }
}

/// Whether a table has our triggers as audit_enable() makes them, enabled for sessions of the origin role or, if `always`, for
/// every one: none of trigger_findings() in sql/install/triggers.sql.
pub fn is_armed(table: &OpenRelation, always: bool) -> bool {
    const ROW: u32 = pg_sys::TRIGGER_TYPE_ROW
        | pg_sys::TRIGGER_TYPE_INSERT
        | pg_sys::TRIGGER_TYPE_UPDATE
        | pg_sys::TRIGGER_TYPE_DELETE;
    const TRUNCATE: u32 = pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_TRUNCATE;
    [(c"capture_row", ROW), (c"capture_truncate", TRUNCATE)].into_iter().all(|(name, kind)| {
        let Some(function) = own_function(name, &[]) else { return false };
        // SAFETY: the table is open.
        unsafe { triggers_of(table.as_ptr()) }.iter().any(|trigger| {
            let enabled = trigger.tgenabled as u8;
            trigger.tgfoid == function
                && trigger.tgtype as u32 == kind
                && trigger.tgqual.is_null()
                && trigger.tgnattr == 0
                && trigger.tgconstraint == pg_sys::InvalidOid
                && (enabled == pg_sys::TRIGGER_FIRES_ALWAYS || enabled == pg_sys::TRIGGER_FIRES_ON_ORIGIN && !always)
        })
    })
}
