//! The Prometheus text of all counters. Names, labels and text exist only during a scrape.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fleet::{Counters, Endpoint, LATENCY_BOUNDS, latency};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::joins::Joins;
use crate::shared::Shared;
use crate::traffic::{Flag, Traffic};

/// All metrics as Prometheus text.
pub fn encode(shared: &Arc<Shared>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(shared))));
    let mut text = String::new();
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &registry) {
        tracing::error!(%error, "metrics not encoded");
    }
    text
}

#[derive(Debug)]
struct Scrape(Arc<Shared>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        self.encode_traffic(&mut encoder)?;
        self.encode_logs(&mut encoder)?;
        self.encode_pool(&mut encoder)?;
        self.encode_joins(&mut encoder)?;
        self.encode_elasticity(&mut encoder)?;
        self.encode_endpoints(&mut encoder)?;
        self.encode_latency(&mut encoder)
    }
}

/// Name, help and value of a gauge per endpoint.
type Gauge = (&'static str, &'static str, fn(&Endpoint) -> u64);
/// Name, help and value of a counter per endpoint.
type Figure = (&'static str, &'static str, fn(&Counters) -> &AtomicU64);
type Labels<'a> = [(&'static str, &'a str)];
/// Name, help and value of a counter for the whole balancer.
type Total = (&'static str, &'static str, fn(&Traffic) -> &AtomicU64);

const TOTALS: [Total; 12] = [
    ("balancer_connections", "Client connections accepted", |traffic| &traffic.connections),
    ("balancer_connections_refused", "Client connections turned away", |traffic| {
        &traffic.connections_refused
    }),
    ("balancer_tls_handshakes_failed", "TLS handshakes that failed", |traffic| {
        &traffic.handshakes_failed
    }),
    (
        "balancer_proxy_headers_failed",
        "Connections of trusted proxies without a PROXY protocol header",
        |traffic| &traffic.introductions_failed,
    ),
    (
        "balancer_connections_evicted",
        "Idle client connections closed to make room for new ones",
        |traffic| &traffic.connections_evicted,
    ),
    ("balancer_hedges", "Requests also sent to a second endpoint", |traffic| &traffic.hedges),
    ("balancer_hedges_won", "Hedges that answered first", |traffic| &traffic.hedges_won),
    ("balancer_retries", "Requests tried again on another endpoint", |traffic| &traffic.retries),
    ("balancer_retries_denied", "Retries that the budget did not allow", |traffic| {
        &traffic.retries_denied
    }),
    ("balancer_reconnects", "Requests sent again because an idle connection had died", |traffic| {
        &traffic.reconnects
    }),
    (
        "balancer_answers_given_up",
        "Responses given up because their clients did not read them",
        |traffic| &traffic.answers_given_up,
    ),
    ("balancer_upstream_connections", "Connections opened to endpoints", |traffic| {
        &traffic.upstream_connections
    }),
];

impl Scrape {
    fn encode_traffic(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let traffic = &self.0.traffic;
        let help = "Client requests, by what became of them";
        let mut family =
            encoder.encode_descriptor("balancer_requests", help, None, MetricType::Counter)?;
        for flag in Flag::ALL {
            family
                .encode_family(&[("outcome", flag.as_str())])?
                .encode_counter::<[(&str, &str); 0], _, u64>(&traffic.count(flag), None)?;
        }
        for (name, help, of) in TOTALS {
            counter(encoder, name, help, of(traffic).load(Relaxed))?;
        }
        gauge(
            encoder,
            "balancer_active_requests",
            "Requests being answered",
            traffic.active.load(Relaxed),
        )
    }

    fn encode_logs(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let help = "Log lines lost because the log was not read or could not be written";
        let name = "balancer_log_lines_dropped";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for log in self.0.logs.iter() {
            for (reason, lines) in [("not_read", log.dropped()), ("not_written", log.failed())] {
                let labels: &Labels<'_> = &[("log", log.name()), ("reason", reason)];
                family
                    .encode_family(&Pairs(labels))?
                    .encode_counter::<[(&str, &str); 0], _, u64>(&lines, None)?;
            }
        }
        Ok(())
    }

    fn encode_pool(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let shared = &self.0;
        let snapshot = shared.fleet.pool.snapshot();
        let open = shared.connections.used() as u64;
        gauge(encoder, "balancer_open_connections", "Client connections open", open)?;
        let bodies = shared.bodies.used() as u64;
        gauge(encoder, "balancer_body_bytes", "Bytes of request bodies held", bodies)?;
        let waiting = shared.fleet.pool.queue().waiting() as u64;
        gauge(encoder, "balancer_queue_depth", "Requests that wait for an endpoint", waiting)?;
        let panicking = u64::from(snapshot.is_panicking());
        gauge(encoder, "balancer_panic_mode", "Whether ejected endpoints are used too", panicking)?;
        counter(encoder, "balancer_panics", "Times panic mode began", shared.fleet.pool.panics())
    }

    fn encode_joins(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let joins = self.0.config.joins.as_deref();
        let joined = joins.map_or(0, |joins| joins.count() as u64);
        gauge(
            encoder,
            "balancer_joined_workers",
            "Workers that have joined by themselves",
            joined,
        )?;
        let expired = joins.map_or(0, Joins::expired);
        counter(
            encoder,
            "balancer_leases_expired",
            "Workers that had joined and left without a word",
            expired,
        )
    }

    fn encode_elasticity(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let supervisor = self.0.supervisor.as_ref();
        let Some(told) = supervisor.and_then(|it| it.elasticity()) else { return Ok(()) };
        let help = "Spawned workers of a fleet that follows its load, by what they do";
        let name = "balancer_spawned_workers";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let seen = &told.seen;
        for (state, count) in [
            ("available", seen.available),
            ("starting", seen.starting),
            ("failing", seen.failing),
            ("out", seen.out),
            ("stopping", seen.stopping),
        ] {
            family.encode_family(&[("state", state)])?.encode_gauge(&(count as u64))?;
        }
        let (least, most) = (told.range.min as u64, told.range.max as u64);
        gauge(encoder, "balancer_spawned_workers_min", "Fewest spawned workers", least)?;
        gauge(encoder, "balancer_spawned_workers_max", "Most spawned workers", most)?;
        counter(encoder, "balancer_workers_started", "Workers started for the load", told.started)?;
        counter(
            encoder,
            "balancer_workers_stopped",
            "Workers stopped for lack of load",
            told.stopped,
        )
    }

    fn encode_endpoints(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let snapshot = self.0.fleet.pool.snapshot();
        let all = snapshot.all();
        let gauges: [Gauge; 5] = [
            ("balancer_endpoint_available", "Whether it takes requests", |endpoint| {
                u64::from(endpoint.state().is_available())
            }),
            ("balancer_in_flight", "Requests it has not answered", |e| u64::from(e.in_flight())),
            ("balancer_in_flight_limit", "Most requests it takes", |e| u64::from(e.limit())),
            ("balancer_endpoint_weight", "Share under the weighted policy", |e| {
                u64::from(e.weight())
            }),
            ("balancer_endpoint_queue", "Queue depth it last reported", |e| {
                u64::from(e.reported_queue())
            }),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for endpoint in all {
                family
                    .encode_family(&[("endpoint", endpoint.name())])?
                    .encode_gauge(&value(endpoint))?;
            }
        }
        let help = "Attempts on an endpoint, by their outcome";
        let mut family =
            encoder.encode_descriptor("balancer_attempts", help, None, MetricType::Counter)?;
        for endpoint in all {
            let counters = endpoint.counters();
            for (outcome, value) in
                [("succeeded", &counters.succeeded), ("failed", &counters.failed)]
            {
                let labels: &Labels<'_> = &[("endpoint", endpoint.name()), ("outcome", outcome)];
                family
                    .encode_family(&Pairs(labels))?
                    .encode_counter::<[(&str, &str); 0], _, u64>(&value.load(Relaxed), None)?;
            }
        }
        let counters: [Figure; 2] = [
            ("balancer_ejections", "Ejections by the outlier detection", |c| &c.ejections),
            ("balancer_probes_failed", "Probes that failed", |c| &c.probes_failed),
        ];
        for (name, help, value) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for endpoint in all {
                family
                    .encode_family(&[("endpoint", endpoint.name())])?
                    .encode_counter::<[(&str, &str); 0], _, u64>(
                        &value(endpoint.counters()).load(Relaxed),
                        None,
                    )?;
            }
        }
        Ok(())
    }

    fn encode_latency(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let snapshot = self.0.fleet.pool.snapshot();
        let name = "balancer_attempt_duration_seconds";
        let help = "Time from sending a request to the head of the response";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for endpoint in snapshot.all() {
            let counters = endpoint.counters();
            let buckets = latency::merged(&counters.latency.counts(), LATENCY_BOUNDS);
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = counters.latency_sum.load(Relaxed) as f64 / 1e9;
            family
                .encode_family(&[("endpoint", endpoint.name())])?
                .encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

/// Several labels of one metric.
#[derive(Debug)]
struct Pairs<'a>(&'a Labels<'a>);

impl EncodeLabelSet for Pairs<'_> {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>,
    ) -> std::fmt::Result {
        for (name, value) in self.0 {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            key.write_str(name)?;
            let mut text = key.encode_label_value()?;
            text.write_str(value)?;
            text.finish()?;
        }
        Ok(())
    }
}

fn counter(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    value: u64,
) -> std::fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Counter)?
        .encode_counter::<[(&str, &str); 0], _, u64>(&value, None)
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> std::fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}
