//! What comes in: every frame is checked against the state of its stream, and nothing that it causes can block.

use std::time::Instant;

use bytes::Bytes;

use super::{
    Control, MAX_CREDIT, MAX_PONGS, Mux, Side,
    stream::{Opening, Stream},
};
use crate::{
    end::{CarrierEnd, ProtocolError, RefuseCode, Refused, ResetCode, StreamEnd},
    frame::Frame,
    target::OpenTarget,
};

impl Mux {
    /// Takes in a frame. After an error the carrier has ended, and GOAWAY with the reason waits to be sent.
    ///
    /// # Errors
    /// When the peer has broken the protocol.
    pub fn handle(&mut self, frame: Frame, now: Instant) -> Result<(), ProtocolError> {
        if self.end.is_some() {
            return Ok(());
        }
        self.clock = self.clock.max(now);
        let outcome = self.dispatch(frame, now);
        if let Err(error) = outcome {
            self.finish(CarrierEnd::Protocol(error));
        }
        outcome
    }

    /// The peer has closed the connection.
    pub fn peer_closed(&mut self) {
        let in_order = self.goaway_received && self.on_wire == 0;
        self.finish(if in_order { CarrierEnd::Drained } else { CarrierEnd::PeerClosed });
    }

    fn dispatch(&mut self, frame: Frame, now: Instant) -> Result<(), ProtocolError> {
        match (frame, self.config.side) {
            (Frame::Data { stream, payload }, _) => self.on_data(stream, payload, now),
            (Frame::Window { stream, increment }, _) => self.on_window(stream, increment, now),
            (Frame::Open { stream, target, keep_alive }, Side::Agent) => self.on_open(stream, &target, keep_alive, now),
            (Frame::Opened { stream }, Side::Gateway) => self.on_opened(stream, now),
            (Frame::Refused { stream, why }, Side::Gateway) => self.on_refused(stream, why, now),
            (Frame::Fin { stream, delivered }, _) => self.on_fin(stream, delivered, now),
            (Frame::Rst { stream, code, delivered }, _) => self.on_rst(stream, code, delivered, now),
            (Frame::Ping(number), _) => self.on_ping(number, now),
            (Frame::Pong(number), _) => self.on_pong(number, now),
            (Frame::GoAway { code: 0, .. }, _) => self.on_go_away(now),
            (Frame::GoAway { code, message }, _) => {
                self.finish(CarrierEnd::PeerError { code, message });
                Ok(())
            }
            (Frame::Ignored, _) => self.flood.spend(now),
            (Frame::Open { .. }, Side::Gateway) => Err(ProtocolError::Unexpected("OPEN")),
            (Frame::Opened { .. }, Side::Agent) => Err(ProtocolError::Unexpected("OPENED")),
            (Frame::Refused { .. }, Side::Agent) => Err(ProtocolError::Unexpected("REFUSED")),
            (Frame::Message { .. }, _) => Err(ProtocolError::Unexpected("MESSAGE")),
        }
    }

    /// The stream, if it is on the wire. `None` for one that has ended.
    fn live(&mut self, id: u32, frame: &'static str) -> Result<Option<&mut Stream>, ProtocolError> {
        if id > self.last_id {
            return Err(ProtocolError::Unexpected(frame));
        }
        Ok(self.streams.get_mut(&id).filter(|stream| stream.on_wire()))
    }

    /// The same, for frames that only make sense after the stream was accepted.
    fn live_and_open(&mut self, id: u32, frame: &'static str) -> Result<Option<&mut Stream>, ProtocolError> {
        match self.live(id, frame)? {
            Some(Stream { opening: Opening::Queued(_) | Opening::Asked, .. }) => Err(ProtocolError::Unexpected(frame)),
            stream => Ok(stream),
        }
    }

    fn on_open(&mut self, id: u32, target: &[u8], keep_alive: bool, now: Instant) -> Result<(), ProtocolError> {
        if id <= self.last_id {
            return Err(ProtocolError::Unexpected("OPEN"));
        }
        self.last_id = id;
        let target = match OpenTarget::decode(target)? {
            None => return self.turn_away(id, RefuseCode::Unsupported, "this agent does not know the target", now),
            Some(_) if self.goaway_sent => {
                return self.turn_away(id, RefuseCode::Draining, "the agent takes no new streams here", now);
            }
            Some(target) => target,
        };
        // Handles outlive the wire for a moment, hence twice.
        let handles = self.streams.len() >= 2 * self.config.max_streams as usize;
        if handles || self.on_wire >= self.config.max_streams {
            return self.turn_away(id, RefuseCode::Limit, "too many streams on this carrier", now);
        }
        // The application's refusals wait there too, and a stream that it refuses no longer counts against the limit.
        if self.control.len() >= self.most_control() {
            return Err(ProtocolError::Flood);
        }
        self.insert(id, Opening::Pending(Some(target)));
        if keep_alive {
            self.set_keep_alive(id);
        }
        self.arrivals.push_back(id);
        self.wakes.task(&mut self.arrival_waker);
        Ok(())
    }

    /// Refuses a stream that the application never hears of.
    fn turn_away(&mut self, id: u32, code: RefuseCode, message: &str, now: Instant) -> Result<(), ProtocolError> {
        self.flood.spend(now)?;
        if self.control.len() >= self.most_control() {
            return Err(ProtocolError::Flood);
        }
        self.flood.stream_ended(u64::from(self.config.initial_window));
        self.control.push_back(Control::Refused(id, Refused::new(code, message)));
        Ok(())
    }

    fn on_opened(&mut self, id: u32, now: Instant) -> Result<(), ProtocolError> {
        let Some(stream) = self.live(id, "OPENED")? else { return self.flood.late_frame(now) };
        if !matches!(stream.opening, Opening::Asked) {
            return Err(ProtocolError::Unexpected("OPENED"));
        }
        stream.opening = Opening::Open;
        let mut waker = stream.open_waker.take();
        self.wakes.task(&mut waker);
        Ok(())
    }

    fn on_refused(&mut self, id: u32, why: Refused, now: Instant) -> Result<(), ProtocolError> {
        let Some(stream) = self.live(id, "REFUSED")? else { return self.flood.late_frame(now) };
        if !matches!(stream.opening, Opening::Asked) {
            return Err(ProtocolError::Unexpected("REFUSED"));
        }
        self.take_off_wire(id, StreamEnd::Refused(why));
        Ok(())
    }

    fn on_data(&mut self, id: u32, payload: Bytes, now: Instant) -> Result<(), ProtocolError> {
        let Some(stream) = self.live_and_open(id, "DATA")? else { return self.flood.late_data(payload.len(), now) };
        if stream.recv.fin {
            return Err(ProtocolError::Unexpected("DATA"));
        }
        if payload.is_empty() {
            return self.flood.spend(now);
        }
        stream.recv.push(payload, now)?;
        if stream.recv.is_discarding() && stream.recv.credit_is_due() {
            self.give_credit(id, now);
            return Ok(());
        }
        let mut waker = stream.tell_reader();
        self.wakes.task(&mut waker);
        Ok(())
    }

    fn on_window(&mut self, id: u32, increment: u32, now: Instant) -> Result<(), ProtocolError> {
        let smallest = self.config.initial_window / 64;
        let Some(stream) = self.live_and_open(id, "WINDOW")? else { return self.flood.late_frame(now) };
        stream.send.credit += u64::from(increment);
        if stream.send.credit > MAX_CREDIT {
            return Err(ProtocolError::WindowOverflow);
        }
        self.stand_in_line(id);
        // Credit in crumbs would make this side send crumbs.
        if increment < smallest { self.flood.spend(now) } else { Ok(()) }
    }

    fn on_fin(&mut self, id: u32, delivered: Option<u64>, now: Instant) -> Result<(), ProtocolError> {
        let Some(stream) = self.live_and_open(id, "FIN")? else { return self.flood.late_frame(now) };
        if stream.recv.fin {
            return Err(ProtocolError::Unexpected("FIN"));
        }
        if let Some(delivered) = delivered {
            // As with RST: never more than it was sent.
            stream.watch.set_delivered(delivered.min(stream.send.sent));
        }
        stream.recv.fin = true;
        stream.recv.finish();
        let mut waker = stream.tell_reader();
        self.wakes.task(&mut waker);
        self.close_if_finished(id);
        Ok(())
    }

    fn on_rst(&mut self, id: u32, code: ResetCode, delivered: u64, now: Instant) -> Result<(), ProtocolError> {
        let side = self.config.side;
        let Some(stream) = self.live(id, "RST")? else { return self.flood.late_frame(now) };
        if matches!(stream.opening, Opening::Queued(_)) {
            return Err(ProtocolError::Unexpected("RST"));
        }
        // A peer cannot have delivered more than it was sent.
        let delivered = delivered.min(stream.send.sent);
        // Streams that are opened and given up before anything came of them cost the agent a connection each.
        if side == Side::Agent && stream.send.sent == 0 {
            self.flood.spend(now)?;
        }
        self.take_off_wire(id, StreamEnd::Reset { code, delivered });
        Ok(())
    }

    fn on_ping(&mut self, number: u64, now: Instant) -> Result<(), ProtocolError> {
        self.flood.spend(now)?;
        if self.pongs_queued >= MAX_PONGS {
            return Err(ProtocolError::Flood);
        }
        self.pongs_queued += 1;
        self.control.push_back(Control::Pong(number));
        Ok(())
    }

    fn on_pong(&mut self, number: u64, now: Instant) -> Result<(), ProtocolError> {
        match self.liveness.answered(number, now) {
            Some(rtt) => {
                self.answers.push((number, rtt));
                Ok(())
            }
            None => self.flood.spend(now),
        }
    }

    fn on_go_away(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if self.goaway_received {
            return self.flood.spend(now);
        }
        self.goaway_received = true;
        // The answer tells the peer that every OPEN of this side is in front of it.
        self.go_away();
        Ok(())
    }
}
