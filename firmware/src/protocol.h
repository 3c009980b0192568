/* The serial protocol of MLPerf Tiny, with the commands of ours that check and time layers. */
#ifndef PROTOCOL_H
#define PROTOCOL_H

/* Reads commands from the port and answers them, for ever. Says nothing before the host speaks. */
_Noreturn void protocol_serve(void);

#endif
