"""The registers of a 16550A and their bits, named as in <linux/serial_reg.h>."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

UART_RX: Final = 0
UART_TX: Final = 0
UART_DLL: Final = 0
UART_IER: Final = 1
UART_DLM: Final = 1
UART_IIR: Final = 2
UART_FCR: Final = 2
UART_LCR: Final = 3
UART_MCR: Final = 4
UART_LSR: Final = 5
UART_MSR: Final = 6
UART_SCR: Final = 7
REGISTERS: Final = 8

UART_IER_RDI: Final = 0x01
UART_IER_THRI: Final = 0x02
UART_IER_RLSI: Final = 0x04
UART_IER_MSI: Final = 0x08

UART_IIR_NO_INT: Final = 0x01
UART_IIR_MSI: Final = 0x00
UART_IIR_THRI: Final = 0x02
UART_IIR_RDI: Final = 0x04
UART_IIR_RLSI: Final = 0x06
UART_IIR_RX_TIMEOUT: Final = 0x0C
UART_IIR_FIFO_ENABLED: Final = 0xC0

UART_FCR_ENABLE_FIFO: Final = 0x01
UART_FCR_CLEAR_RCVR: Final = 0x02
UART_FCR_TRIGGER_MASK: Final = 0xC0

UART_LCR_DLAB: Final = 0x80

UART_MCR_DTR: Final = 0x01
UART_MCR_RTS: Final = 0x02
UART_MCR_OUT1: Final = 0x04
UART_MCR_OUT2: Final = 0x08
UART_MCR_LOOP: Final = 0x10

UART_LSR_DR: Final = 0x01
UART_LSR_OE: Final = 0x02
UART_LSR_BRK_ERROR_BITS: Final = 0x1E
UART_LSR_THRE: Final = 0x20
UART_LSR_TEMT: Final = 0x40

UART_MSR_ANY_DELTA: Final = 0x0F
UART_MSR_DCTS: Final = 0x01
UART_MSR_DDSR: Final = 0x02
UART_MSR_TERI: Final = 0x04
UART_MSR_DDCD: Final = 0x08
UART_MSR_CTS: Final = 0x10
UART_MSR_DSR: Final = 0x20
UART_MSR_RI: Final = 0x40
UART_MSR_DCD: Final = 0x80

FIFO_SIZE: Final = 16
