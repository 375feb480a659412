"""A 16550A UART (National Semiconductor PC16550D datasheet)."""

from __future__ import annotations

import os
from _thread import allocate_lock

from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.host.eventfd import EventFd

from pyvmm_serial.registers import (
    FIFO_SIZE,
    REGISTERS,
    UART_FCR_CLEAR_RCVR,
    UART_FCR_ENABLE_FIFO,
    UART_FCR_TRIGGER_MASK,
    UART_IER_MSI,
    UART_IER_RDI,
    UART_IER_RLSI,
    UART_IER_THRI,
    UART_IIR_FIFO_ENABLED,
    UART_IIR_MSI,
    UART_IIR_NO_INT,
    UART_IIR_RDI,
    UART_IIR_RLSI,
    UART_IIR_RX_TIMEOUT,
    UART_IIR_THRI,
    UART_LCR_DLAB,
    UART_LSR,
    UART_LSR_BRK_ERROR_BITS,
    UART_LSR_DR,
    UART_LSR_OE,
    UART_LSR_TEMT,
    UART_LSR_THRE,
    UART_MCR_DTR,
    UART_MCR_LOOP,
    UART_MCR_OUT1,
    UART_MCR_OUT2,
    UART_MCR_RTS,
    UART_MSR_ANY_DELTA,
    UART_MSR_CTS,
    UART_MSR_DCD,
    UART_MSR_DCTS,
    UART_MSR_DDCD,
    UART_MSR_DDSR,
    UART_MSR_DSR,
    UART_MSR_RI,
    UART_MSR_TERI,
    UART_SCR,
    UART_TX,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Protocol

    from pyvmm.device_context import DeviceContext
    from pyvmm.kvm.fast_port import FastPort
else:
    Protocol = object

_TRIGGER_LEVELS: Final = (1, 4, 8, 14)
_DIVISOR_115200: Final = 1

# The causes of the interrupt are the bits of IER, and one for the character timeout, which RDI enables too.
_CAUSE_TIMEOUT: Final = 0x10
_IIR_BY_PRIORITY: Final = (
    (UART_IER_RLSI, UART_IIR_RLSI),
    (UART_IER_RDI, UART_IIR_RDI),
    (_CAUSE_TIMEOUT, UART_IIR_RX_TIMEOUT),
    (UART_IER_THRI, UART_IIR_THRI),
    (UART_IER_MSI, UART_IIR_MSI),
)

# A driver that polls for input without ever raising RTS is recognised after this many fruitless reads of LSR in a
# row. Linux's driver never reads it that often while the transmitter is ready.
_POLLS_THAT_ASK: Final = 256


class Peer(Protocol):
    """The other end of the UART's cable. Its methods are called on vCPU threads, under the UART's lock or not."""

    @property
    def full(self) -> bool:
        """Whether it cannot take more now. It then calls :meth:`Uart.transmitter_ready` when it can."""

    @property
    def waiting(self) -> bool:
        """Whether it has characters for the guest. When that becomes true, it calls :meth:`Uart.receiver_ready`."""

    def send(self, data: bytes) -> None:
        """Take characters that the guest transmitted. After it has become ``full``, a few KiB more must still fit."""

    def take(self, limit: int) -> bytes:
        """At most ``limit`` characters for the guest; empty when there are none."""


def _com(base: int, irq: int | None) -> Placement:
    return Placement(ports=BusRange(base, REGISTERS), irq=irq, any_irq=irq is None, acpi_hid="PNP0501")


class Uart(BusDevice):
    """A 16550A at the end of a cable of unlimited speed with hardware flow control.

    A character written to THR reaches the peer immediately, so THRE and TEMT are set. Only if the peer is full, they
    stay clear until it has room, as if CTS stopped the transmitter. In the other direction the peer sends only while
    RTS is asserted. So the receiver never overruns, and input waits until the guest's driver is ready.

    ``read``, ``write`` and ``transmit`` are called on vCPU threads, ``receiver_ready`` and ``transmitter_ready`` on
    any other.
    """

    name = "serial"

    # On a PC, COM3 and COM4 share the lines of COM1 and COM2. Edge-triggered lines cannot be shared, so they take a
    # free line here; ACPI tells the guest which.
    placements = (_com(0x3F8, 4), _com(0x2F8, 3), _com(0x3E8, None), _com(0x2E8, None))

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._lock = allocate_lock()
        self.ier = 0
        self.fcr = 0
        self.lcr = 0
        self.mcr = 0
        self.lsr = UART_LSR_THRE | UART_LSR_TEMT
        self.msr = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS
        self.scr = 0
        self.dll = _DIVISOR_115200
        self.dlm = 0
        self.rx_fifo: list[int] = []
        self.thre_pending = False
        self.causes = 0
        """The causes that hold the interrupt line high: bits of IER, and the character timeout."""
        self._input_waits = False
        self._driver_polls = False
        self._polls = 0
        # Whether a read of LSR has no side effect, and a write to THR only transmits. A console makes these two
        # accesses for each character, so they then take a short path without a lock.
        self._lsr_is_plain = True
        self._thr_is_plain = True
        # If the machine has fast ports, its vCPUs' threads even make these accesses without this object. _settle
        # controls them.
        self._fast_thr: FastPort | None = None
        self._fast_lsr: FastPort | None = None
        self._collecting = False
        self._answer: int | None = None

    def attach(self, context: DeviceContext) -> None:
        super().attach(context)
        self._fast_thr = context.fast_port(UART_TX)
        self._fast_lsr = context.fast_port(UART_LSR)
        if self._fast_thr is not None:
            # A duplicate that is still open in close(), so that the guest's last output is not left in the fast port.
            self._fast_thr.event = EventFd(os.dup(self._fast_thr.event.fd))
            context.loop.add(self._fast_thr.event.fd, self._on_collected)
        with self._lock:
            self._settle()

    def close(self) -> None:
        with self._lock:
            if self._fast_thr is not None:
                self._send_collected()
                self._fast_thr.event.close()
                self._fast_thr = None

    def send_all(self) -> None:
        """Send the characters that the fast port has collected. On any thread."""
        with self._lock:
            self._send_collected()

    def read(self, offset: int, data: memoryview) -> None:
        if offset == UART_LSR and self._lsr_is_plain and len(data) == 1:
            data[0] = self.lsr
            return
        if offset == UART_SCR and len(data) == 1:
            data[0] = self.scr
            return
        # The ISA bus splits a wider access into one cycle per byte, the low address first.
        with self._lock:
            for lane in range(len(data)):
                data[lane] = self._read_register(offset + lane)

    def write(self, offset: int, data: memoryview) -> None:
        if offset == UART_TX and self._thr_is_plain and not self._collecting and len(data) == 1:
            self.peer.send(bytes(data))
            self._polls = 0
            if self.peer.full:
                with self._lock:
                    self._transmitted()
                    self._settle()
            return
        if offset == UART_SCR and len(data) == 1:
            self.scr = data[0]  # it has no effect
            return
        with self._lock:
            if self._collecting:
                self._send_collected()
            for lane, value in enumerate(data):
                self._write_register(offset + lane, value)
                self._settle()

    def transmit(self, data: bytes) -> None:
        """Take several writes to THR together, made while THRE was set."""
        with self._lock:
            self._transmit(data)
            self._settle()

    def transmitter_ready(self) -> None:
        """The peer has room again."""
        with self._lock:
            self._update_transmitter()
            self._settle()

    def receiver_ready(self) -> None:
        """The peer has characters for the guest, after it had none."""
        with self._lock:
            self._fill_fifo()
            self._settle()

    def _on_collected(self, _: int) -> None:
        with self._lock:
            self._send_collected()
            self._settle()

    def _send_collected(self) -> None:
        """Transmit the characters that vCPUs' threads have collected. They were written before the current access."""
        if self._fast_thr is not None and (data := self._fast_thr.drain()):
            self._transmit(data)

    def _transmit(self, data: bytes) -> None:
        self._polls = 0
        self.peer.send(data)
        self._transmitted()

    def _read_register(self, offset: int) -> int:
        match offset:
            case 0 if self.lcr & UART_LCR_DLAB:
                return self.dll
            case 0:
                return self._read_rbr()
            case 1 if self.lcr & UART_LCR_DLAB:
                return self.dlm
            case 1:
                return self.ier
            case 2:
                return self._read_iir()
            case 3:
                return self.lcr
            case 4:
                return self.mcr
            case 5:
                return self._read_lsr()
            case 6:
                return self._read_msr()
            case 7:
                return self.scr
        return 0xFF

    def _write_register(self, offset: int, value: int) -> None:
        match offset:
            case 0 if self.lcr & UART_LCR_DLAB:
                self.dll = value
            case 0:
                self._write_thr(value)
            case 1 if self.lcr & UART_LCR_DLAB:
                self.dlm = value
            case 1:
                self._write_ier(value)
            case 2:
                self._write_fcr(value)
            case 3:
                self.lcr = value
            case 4:
                self._write_mcr(value)
            case 7:
                self.scr = value

    def _read_rbr(self) -> int:
        value = self.rx_fifo.pop(0) if self.rx_fifo else 0
        # The FIFO is filled up before it falls below the trigger level. So a long input is one interrupt, not one for
        # each crossing of the level.
        if len(self.rx_fifo) < self._trigger_level:
            self._fill_fifo()
        self._settle()
        return value

    def _read_iir(self) -> int:
        if self._collecting:
            self._send_collected()  # otherwise it would count as written after this read, and cause another interrupt
        iir = UART_IIR_NO_INT
        for cause, id_ in _IIR_BY_PRIORITY:
            if self.causes & cause:
                iir = id_
                break
        if iir == UART_IIR_THRI:
            self.thre_pending = False
            self._settle()
        return iir | (UART_IIR_FIFO_ENABLED if self.fcr & UART_FCR_ENABLE_FIFO else 0)

    def _read_lsr(self) -> int:
        lsr = self.lsr
        self.lsr &= ~UART_LSR_BRK_ERROR_BITS
        if self._input_waits and not self.mcr & UART_MCR_LOOP and lsr & UART_LSR_THRE:
            self._polls += 1
            if self._polls >= _POLLS_THAT_ASK:
                self._send_collected()  # this resets the count if anything was collected
            if self._polls >= _POLLS_THAT_ASK:
                self._driver_polls = True
                self._fill_fifo()
        self._settle()
        return lsr

    def _read_msr(self) -> int:
        msr = self.msr
        self.msr &= ~UART_MSR_ANY_DELTA
        self._settle()
        return msr

    def _write_thr(self, value: int) -> None:
        self._polls = 0
        if self.mcr & UART_MCR_LOOP:
            if len(self.rx_fifo) < self._fifo_size:
                self.rx_fifo.append(value)
            else:
                self.lsr |= UART_LSR_OE
            self._transmitted()
        else:
            self._transmit(bytes((value,)))

    def _transmitted(self) -> None:
        """Update the state after a write to THR. THR is empty again immediately, unless the peer is full."""
        self.lsr &= ~(UART_LSR_THRE | UART_LSR_TEMT)
        self.thre_pending = False
        self._update_transmitter()

    def _update_transmitter(self) -> None:
        """Set whether THR is empty, by the peer's room. The THRE interrupt reports that THR has become empty."""
        if self.peer.full and not self.mcr & UART_MCR_LOOP:
            self.lsr &= ~(UART_LSR_THRE | UART_LSR_TEMT)
            self.thre_pending = False
        elif not self.lsr & UART_LSR_THRE:
            self.lsr |= UART_LSR_THRE | UART_LSR_TEMT
            self.thre_pending = bool(self.ier & UART_IER_THRI)

    def _write_ier(self, value: int) -> None:
        enabled = value & ~self.ier
        self.ier = value & (UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI)
        # Enabling the interrupt while THR is empty raises it; Linux tests a UART for that (serial8250_do_startup).
        if enabled & UART_IER_THRI and self.lsr & UART_LSR_THRE:
            self.thre_pending = True
        elif not self.ier & UART_IER_THRI:
            self.thre_pending = False

    def _write_fcr(self, value: int) -> None:
        if not value & UART_FCR_ENABLE_FIFO:
            value = 0
        if (value ^ self.fcr) & UART_FCR_ENABLE_FIFO or value & UART_FCR_CLEAR_RCVR:
            self.rx_fifo.clear()
        self.fcr = value & (UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK)
        self._fill_fifo()

    def _write_mcr(self, value: int) -> None:
        self.mcr = value & (UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT1 | UART_MCR_OUT2 | UART_MCR_LOOP)
        lines = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS
        if self.mcr & UART_MCR_LOOP:
            lines = 0
            for output, line in (
                (UART_MCR_DTR, UART_MSR_DSR),
                (UART_MCR_RTS, UART_MSR_CTS),
                (UART_MCR_OUT1, UART_MSR_RI),
                (UART_MCR_OUT2, UART_MSR_DCD),
            ):
                if self.mcr & output:
                    lines |= line
        changed = lines ^ self.msr
        for line, delta in (
            (UART_MSR_CTS, UART_MSR_DCTS),
            (UART_MSR_DSR, UART_MSR_DDSR),
            (UART_MSR_DCD, UART_MSR_DDCD),
        ):
            if changed & line:
                self.msr |= delta
        if changed & UART_MSR_RI and not lines & UART_MSR_RI:
            self.msr |= UART_MSR_TERI
        self.msr = lines | self.msr & UART_MSR_ANY_DELTA
        self._update_transmitter()
        self._fill_fifo()

    @property
    def _fifo_size(self) -> int:
        return FIFO_SIZE if self.fcr & UART_FCR_ENABLE_FIFO else 1

    @property
    def _trigger_level(self) -> int:
        return _TRIGGER_LEVELS[self.fcr >> 6] if self.fcr & UART_FCR_ENABLE_FIFO else 1

    def _fill_fifo(self) -> None:
        """Let the peer send as much as fits, if the guest is ready to receive."""
        if self.mcr & UART_MCR_LOOP or not (self.mcr & UART_MCR_RTS or self._driver_polls):
            self._input_waits = self.peer.waiting
            return
        self._input_waits = False
        room = self._fifo_size - len(self.rx_fifo)
        if room > 0:
            self.rx_fifo.extend(self.peer.take(room))

    def _settle(self) -> None:
        """Bring everything that follows from the rest up to date, and raise an edge for each new interrupt cause.

        On a PC the line must fall before it can rise again, so a driver has to look until IIR shows no cause. An
        edge more than that does no harm and is kinder to one that does not look.
        """
        # While a THRE interrupt is pending, more of the same burst changes nothing.
        self._thr_is_plain = not (self.lcr & UART_LCR_DLAB or self.mcr & UART_MCR_LOOP) and (
            self.thre_pending or not self.ier & UART_IER_THRI
        )
        if self._fast_thr is not None:
            collect = self._thr_is_plain and bool(self.lsr & UART_LSR_THRE)
            if collect != self._collecting:
                self._collecting = collect
                self._fast_thr.set(collect_writes=collect)
                if not collect:
                    self._send_collected()  # what another vCPU has written meanwhile

        level = len(self.rx_fifo)
        self.lsr = self.lsr | UART_LSR_DR if level else self.lsr & ~UART_LSR_DR
        self._lsr_is_plain = not (self.lsr & UART_LSR_BRK_ERROR_BITS or self._input_waits)
        if self._fast_lsr is not None:
            answer = self.lsr if self._lsr_is_plain else None
            if answer != self._answer:
                self._answer = answer
                self._fast_lsr.set(answer=answer)

        causes = UART_IER_THRI if self.thre_pending else 0
        if level and self.ier & UART_IER_RDI:
            causes |= UART_IER_RDI if level >= self._trigger_level else _CAUSE_TIMEOUT
        if self.lsr & UART_LSR_BRK_ERROR_BITS:
            causes |= self.ier & UART_IER_RLSI
        if self.msr & UART_MSR_ANY_DELTA:
            causes |= self.ier & UART_IER_MSI
        new = causes & ~self.causes
        self.causes = causes
        if new:
            self.interrupt(new)
