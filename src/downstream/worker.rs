//! What all connections of one worker share.

use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;

use crate::generation::passthrough::PassthroughConn;
use crate::generation::virtual_server::TunnelInfo;
use crate::net::WorkerLocal;
use crate::socketio::EventSink;
use crate::telemetry::recent::RecentRequests;
use crate::telemetry::timestamp::TimestampCache;
use crate::telemetry::{Metrics, WorkerLines};
use crate::upstream::Pool;

use super::id::RequestIds;
use super::tunnel_registry::TunnelRegistry;

/// What all connections of one worker share.
pub struct Worker {
    /// Clock, scratch buffer, tasks.
    pub local: Rc<WorkerLocal>,
    /// Idle upstream connections.
    pub pool: Rc<Pool>,
    /// The access log.
    pub lines: Rc<WorkerLines>,
    /// Counters that have no listener or route.
    pub metrics: Arc<Metrics>,
    /// Open tunnels of the way in.
    pub tunnels: TunnelRegistry<TunnelInfo>,
    /// Open connections that are passed through.
    pub passthrough_conn: TunnelRegistry<PassthroughConn>,
    /// The latest requests of the way in.
    pub recent: RecentRequests,
    /// What is noticed of Socket.IO sessions.
    pub event_sink: Rc<EventSink>,
    /// The present time as text.
    pub(crate) stamp: TimestampCache,
    pub(crate) ids: RequestIds,
    /// Held so that there is one to give up when none is left.
    pub(crate) spare: RefCell<Option<File>>,
}

impl Worker {
    /// For the current thread, whose runtime must run local tasks. `recent` is how many requests it
    /// remembers.
    #[must_use]
    pub fn new(
        lines: Rc<WorkerLines>,
        metrics: Arc<Metrics>,
        event_sink: Rc<EventSink>,
        recent: usize,
    ) -> Rc<Self> {
        let worker = Rc::new(Self {
            local: WorkerLocal::new(),
            pool: Rc::default(),
            lines,
            metrics,
            tunnels: TunnelRegistry::default(),
            passthrough_conn: TunnelRegistry::default(),
            recent: RecentRequests::new(recent),
            event_sink,
            stamp: TimestampCache::default(),
            ids: RequestIds::new(),
            spare: RefCell::new(Self::open_spare()),
        });
        tokio::task::spawn_local(worker.local.clock.clone().run());
        tokio::task::spawn_local(Rc::clone(&worker.pool).sweep());
        tokio::task::spawn_local(Rc::clone(&worker.lines).run());
        tokio::task::spawn_local(Rc::clone(&worker.event_sink).run());
        worker
    }

    /// A descriptor to be given up later, if there is one left.
    pub(crate) fn open_spare() -> Option<File> {
        File::open("/dev/null").ok()
    }
}
