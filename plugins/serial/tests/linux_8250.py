"""A guest for tests: what Linux's 8250 driver does with a UART (drivers/tty/serial/8250, Linux 6.1)."""

from __future__ import annotations

from pyvmm.bus import BusDevice
from pyvmm.host.eventfd import EventFd
from pyvmm.testing.waiting import PATIENCE
from pyvmm_serial.registers import (
    UART_DLL,
    UART_DLM,
    UART_FCR,
    UART_IER,
    UART_IER_RDI,
    UART_IER_RLSI,
    UART_IER_THRI,
    UART_IIR,
    UART_IIR_NO_INT,
    UART_LCR,
    UART_LCR_DLAB,
    UART_LSR,
    UART_LSR_DR,
    UART_LSR_TEMT,
    UART_LSR_THRE,
    UART_MCR,
    UART_MCR_DTR,
    UART_MCR_LOOP,
    UART_MCR_OUT1,
    UART_MCR_OUT2,
    UART_MCR_RTS,
    UART_MSR,
    UART_MSR_CTS,
    UART_MSR_DCD,
    UART_RX,
    UART_SCR,
    UART_TX,
)

TX_LOADSZ = 16
PASS_LIMIT = 512
BOTH_EMPTY = UART_LSR_THRE | UART_LSR_TEMT
CONF_MODE_A, CONF_MODE_B = UART_LCR_DLAB, 0xBF
FIFO_ENABLED_TRIGGER_8 = 0x81


class Linux8250:
    """The driver: it sees nothing but registers and one interrupt line."""

    def __init__(self, uart: BusDevice, irq: EventFd) -> None:
        self.uart = uart
        self.irq = irq
        self.ier = 0
        self.xmit = bytearray()
        """The tty's output that waits to be transmitted."""
        self.received = bytearray()
        self.interrupts = 0
        self.spurious = 0
        self._byte = memoryview(bytearray(1))

    def inb(self, offset: int) -> int:
        """Read a register."""
        self._byte[0] = 0xFF
        self.uart.read(offset, self._byte)
        return self._byte[0]

    def outb(self, offset: int, value: int) -> None:
        """Write a register."""
        self.uart.write(offset, memoryview(bytes((value,))))

    def autoconfig(self) -> str:
        """The UART's type by autoconfig(): it must be ``16550A`` and nothing newer."""
        self.outb(UART_IER, 0)
        if self.inb(UART_IER) & 0x0F:
            return "no IER"
        self.outb(UART_IER, 0x0F)
        if self.inb(UART_IER) & 0x0F != 0x0F:
            return "no IER"
        self.outb(UART_IER, 0)
        save_mcr, save_lcr = self.inb(UART_MCR), self.inb(UART_LCR)
        self.outb(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS)
        if self.inb(UART_MSR) & 0xF0 != UART_MSR_DCD | UART_MSR_CTS:
            return "no loopback"
        self.outb(UART_MCR, save_mcr)
        self.outb(UART_LCR, CONF_MODE_B)
        self.outb(UART_FCR, 0)  # EFR of a 16650
        self.outb(UART_LCR, 0)
        self.outb(UART_FCR, 1)
        kind = {0: self._autoconfig_8250(), 2: "16550", 3: self._autoconfig_16550a()}.get(self.inb(UART_IIR) >> 6, "?")
        self.outb(UART_LCR, save_lcr)
        # rsa and the rest, then "Reset the UART"
        self.outb(UART_MCR, save_mcr)
        self.clear_fifos()
        self.inb(UART_RX)
        self.outb(UART_IER, 0)
        return kind

    def _autoconfig_8250(self) -> str:
        save = self.inb(UART_SCR)
        echoes = True
        for pattern in (0xA5, 0x5A):
            self.outb(UART_SCR, pattern)
            echoes = echoes and self.inb(UART_SCR) == pattern
        self.outb(UART_SCR, save)
        return "16450" if echoes else "8250"

    def _autoconfig_16550a(self) -> str:
        self.outb(UART_LCR, CONF_MODE_A)
        if self.inb(UART_IIR) == 0:
            return "16650"
        self.outb(UART_LCR, CONF_MODE_B)
        if self.inb(UART_IIR) == 0:
            return "16650V2"
        self.outb(UART_LCR, 0)
        status1 = self.inb(UART_MCR)
        self.outb(UART_LCR, 0xE0)
        status2 = self.inb(UART_IIR)  # EXCR1 of a NS16550A
        if not (status2 ^ status1) & UART_MCR_LOOP:
            self.outb(UART_LCR, 0)
            self.outb(UART_MCR, status1 ^ UART_MCR_LOOP)
            self.outb(UART_LCR, 0xE0)
            status2 = self.inb(UART_IIR)
            self.outb(UART_LCR, 0)
            self.outb(UART_MCR, status1)
            if (status2 ^ status1) & UART_MCR_LOOP:
                return "NS16550A"
        self.outb(UART_LCR, 0)
        self.outb(UART_FCR, 0x21)  # 64 bytes on a TI16750
        status1 = self.inb(UART_IIR) >> 5
        self.outb(UART_FCR, 1)
        self.outb(UART_LCR, CONF_MODE_A)
        self.outb(UART_FCR, 0x21)
        status2 = self.inb(UART_IIR) >> 5
        self.outb(UART_FCR, 1)
        self.outb(UART_LCR, 0)
        if (status1, status2) == (6, 7):
            return "16750"
        save = self.inb(UART_IER)
        self.outb(UART_IER, save & ~0x40)
        if not self.inb(UART_IER) & 0x40:
            self.outb(UART_IER, save | 0x40)
            if self.inb(UART_IER) & 0x40:
                return "XScale"
        self.outb(UART_IER, save)
        return "16550A"

    def clear_fifos(self) -> None:
        """serial8250_clear_fifos()."""
        for value in (1, 7, 0):
            self.outb(UART_FCR, value)

    def startup(self) -> None:
        """serial8250_do_startup(), set_termios() and raising DTR and RTS: what opening the port does.

        Raises AssertionError where Linux would take the UART for a buggy one.
        """
        self.clear_fifos()
        for register in (UART_LSR, UART_RX, UART_IIR, UART_MSR):
            self.inb(register)
        assert self.inb(UART_LSR) != 0xFF
        self.outb(UART_LCR, 3)
        self.outb(UART_IER, UART_IER_THRI)
        first = self.inb(UART_IIR)
        self.outb(UART_IER, 0)
        self.outb(UART_IER, UART_IER_THRI)
        again = self.inb(UART_IIR)
        self.outb(UART_IER, 0)
        assert first & UART_IIR_NO_INT or not again & UART_IIR_NO_INT, "UART_BUG_THRE"
        self.outb(UART_MCR, UART_MCR_OUT2)
        self.outb(UART_IER, UART_IER_THRI)
        lsr, iir = self.inb(UART_LSR), self.inb(UART_IIR)
        self.outb(UART_IER, 0)
        assert not (lsr & UART_LSR_TEMT and iir & UART_IIR_NO_INT), "UART_BUG_TXEN"
        for register in (UART_LSR, UART_RX, UART_IIR, UART_MSR):
            self.inb(register)
        self.set_ier(UART_IER_RLSI | UART_IER_RDI)
        self.outb(UART_LCR, UART_LCR_DLAB | 3)
        self.outb(UART_DLL, 1)
        self.outb(UART_DLM, 0)
        self.outb(UART_LCR, 3)
        self.outb(UART_FCR, 1)
        self.outb(UART_FCR, FIFO_ENABLED_TRIGGER_8)
        self.outb(UART_MCR, UART_MCR_OUT2 | UART_MCR_DTR | UART_MCR_RTS)

    def shutdown(self) -> None:
        """What closing the port does: uart_shutdown() and serial8250_do_shutdown()."""
        self.outb(UART_MCR, UART_MCR_OUT2)
        self.set_ier(0)
        self.outb(UART_MCR, UART_MCR_OUT1)
        self.clear_fifos()
        self.inb(UART_RX)

    def set_ier(self, value: int) -> None:
        """Write IER and remember it."""
        self.ier = value
        self.outb(UART_IER, value)

    def console_write(self, text: bytes, polls: int = 10_000) -> None:
        """serial8250_console_write(): up to ``polls`` reads of LSR, then the character goes out in any case."""
        self.outb(UART_IER, 0)
        for byte in text:
            self._wait_for(UART_LSR_THRE, polls)
            self.outb(UART_TX, byte)
        self._wait_for(BOTH_EMPTY, polls)
        self.outb(UART_IER, self.ier)

    def _wait_for(self, bits: int, polls: int) -> None:
        for _ in range(polls):
            if self.inb(UART_LSR) & bits == bits:
                return

    def write(self, data: bytes) -> None:
        """What a process writes to the tty: uart_write() and serial8250_start_tx()."""
        self.xmit += data
        if self.xmit and not self.ier & UART_IER_THRI:
            self.set_ier(self.ier | UART_IER_THRI)

    def serve_interrupt(self, timeout: float | None = PATIENCE) -> bool:
        """Wait for one interrupt and handle it, as serial8250_interrupt() does; False where none came in time."""
        if not self.irq.wait(timeout):
            return False
        self.interrupts += 1
        for handled in range(PASS_LIMIT):
            iir = self.inb(UART_IIR)
            if iir & UART_IIR_NO_INT:
                self.spurious += handled == 0
                return True
            self._handle_irq()
        return True

    def _handle_irq(self) -> None:
        lsr = self.inb(UART_LSR)
        for _ in range(256):
            if not lsr & UART_LSR_DR:
                break
            self.received.append(self.inb(UART_RX))
            lsr = self.inb(UART_LSR)
        self.inb(UART_MSR)
        if lsr & UART_LSR_THRE and self.ier & UART_IER_THRI:
            for byte in self.xmit[:TX_LOADSZ]:
                self.outb(UART_TX, byte)
            del self.xmit[:TX_LOADSZ]
            if not self.xmit:
                self.set_ier(self.ier & ~UART_IER_THRI)
