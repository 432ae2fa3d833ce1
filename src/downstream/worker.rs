//! State of a worker that all of its connections share.

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

/// State of a worker that all of its connections share.
pub struct Worker {
    /// Clock, scratch buffer and tasks.
    pub local: Rc<WorkerLocal>,
    /// Idle upstream connections.
    pub pool: Rc<Pool>,
    /// Lines for the access log.
    pub lines: Rc<WorkerLines>,
    /// Metrics of the process, such as those without a listener or route.
    pub metrics: Arc<Metrics>,
    /// Open WebSockets of the reverse proxy.
    pub tunnels: TunnelRegistry<TunnelInfo>,
    /// Open passthrough connections.
    pub passthrough_conn: TunnelRegistry<PassthroughConn>,
    /// Most recent requests of the reverse proxy.
    pub recent: RecentRequests,
    /// Sink for events of Socket.IO sessions.
    pub event_sink: Rc<EventSink>,
    /// Current time as text.
    pub(crate) stamp: TimestampCache,
    pub(crate) ids: RequestIds,
    /// Spare file descriptor, closed to accept and reject a client when no other is left.
    pub(crate) spare: RefCell<Option<File>>,
}

impl Worker {
    /// State of the worker on the current thread, whose runtime must run local tasks. `recent` is
    /// the number of requests to keep.
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

    /// Opens a spare file descriptor, if one is left.
    pub(crate) fn open_spare() -> Option<File> {
        File::open("/dev/null").ok()
    }
}
